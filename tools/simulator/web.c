/* The web: where it is at a time, what it looks like, and its lines in the camera's pixel format. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "simulator.h"

/* ---- motion -------------------------------------------------------------------------------------------------- */

static int64_t least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

int64_t web_limit(const struct web *web)
{
    return least(web->stop_line, web->end_line);
}

double web_exact(const struct web *web, int64_t now)
{
    double since = now > web->base_ns ? (double)(now - web->base_ns) : 0; /* a t0 from before a reboot lies ahead */
    double lines = since * web->rate / (double)NS_PER_S;
    double limit = (double)(web_limit(web) - web->base_line);
    return (double)web->base_line + (lines < limit ? lines : limit);
}

int64_t web_position(const struct web *web, int64_t now)
{
    return (int64_t)floor(web_exact(web, now));
}

int64_t web_next_line(const struct web *web, int64_t now)
{
    return (int64_t)ceil(web_exact(web, now));
}

int64_t web_time_of(const struct web *web, int64_t line)
{
    if (line > web_limit(web))
        return NEVER;
    return web->base_ns + (int64_t)ceil((double)(line - web->base_line) * (double)NS_PER_S / web->rate);
}

void web_rebase(struct web *web, int64_t now)
{
    web->base_line = web_position(web, now);
    web->base_ns = now;
}

/* ---- strip file ---------------------------------------------------------------------------------------------- */

/* One number of a PGM header; blanks and comments before it are passed over. 0: none there. */
static int64_t header_number(const uint8_t *data, size_t size, size_t *at)
{
    int64_t value = 0;
    for (; *at < size; ++*at) {
        if (data[*at] == '#')
            while (*at < size && data[*at] != '\n')
                ++*at;
        else if (data[*at] > ' ')
            break;
    }
    for (; *at < size && data[*at] >= '0' && data[*at] <= '9' && value < INT32_MAX; ++*at)
        value = value * 10 + (data[*at] - '0');
    return value;
}

static GC_ERROR read_header(struct picture *picture, const char *path)
{
    const uint8_t *data = picture->mapped;
    size_t size = picture->mapped_size, at = 2;
    if (size < 8 || data[0] != 'P' || data[1] != '5')
        return fail(GC_ERR_INVALID_VALUE, "%s: not a binary PGM (P5)", path);
    picture->columns = header_number(data, size, &at);
    picture->lines = header_number(data, size, &at);
    if (header_number(data, size, &at) != 255)
        return fail(GC_ERR_INVALID_VALUE, "%s: the maximum must be 255 (8 bits)", path);
    at++; /* the one blank behind the maximum */
    if (picture->columns < 64 || picture->lines < 1)
        return fail(GC_ERR_INVALID_VALUE, "%s: at least 64 columns and 1 line are needed", path);
    if (at > size || (uint64_t)picture->columns * (uint64_t)picture->lines > size - at)
        return fail(GC_ERR_INVALID_VALUE, "%s: shorter than its header says", path);
    picture->strip = data + at;
    return GC_ERR_SUCCESS;
}

static GC_ERROR map_strip(struct picture *picture, const struct config *config)
{
    struct stat status;
    int file = open(config->strip, O_RDONLY | O_CLOEXEC);
    if (file < 0)
        return fail(GC_ERR_IO, "%s: %s", config->strip, strerror(errno));
    if (fstat(file, &status) == 0 && S_ISREG(status.st_mode) && status.st_size > 0) {
        picture->mapped_size = (size_t)status.st_size;
        picture->mapped = mmap(NULL, picture->mapped_size, PROT_READ, MAP_PRIVATE, file, 0);
    }
    close(file);
    if (!picture->mapped || picture->mapped == MAP_FAILED) {
        picture->mapped = NULL;
        return fail(GC_ERR_IO, "%s: cannot be mapped: an empty file or a folder?", config->strip);
    }
    GC_ERROR error = read_header(picture, config->strip);
    if (!error && config->columns > picture->columns)
        return fail(GC_ERR_INVALID_VALUE, "%s: has %" PRId64 " columns, the sensor %" PRId64, config->strip,
                    picture->columns, config->columns);
    return error;
}

/* ---- rendered web -------------------------------------------------------------------------------------------- */

#define RENDERED_LINES 2048
#define RENDERED_COLUMNS 4096

/* Line, column in 1/1000 of the width, and radius of the blots in each 2048 lines. */
static const struct {
    int line, column, radius;
} blots[] = {{300, 250, 12}, {1100, 600, 20}, {1700, 850, 8}};

static uint32_t hash(uint32_t a, uint32_t b)
{
    uint32_t h = a * 0x9E3779B1U ^ b * 0x85EBCA77U;
    h ^= h >> 15;
    h *= 0x2C1B3C6DU;
    return h ^ h >> 13;
}

/* A plain weave: threads of 8 pixels, alternately over and under. */
static uint8_t weave(int64_t line, int64_t column, uint32_t seed)
{
    static const int thread[8] = {-14, -4, 5, 10, 10, 5, -4, -14};
    bool warp_above = ((line >> 3 ^ column >> 3) & 1) != 0;
    int shape = warp_above ? thread[column & 7] : thread[line & 7];
    int noise = (int)(hash((uint32_t)line, (uint32_t)column ^ seed) & 15) - 8;
    int brightness = (int)(hash((uint32_t)line, seed) % 9) - 4;
    return (uint8_t)(140 + (warp_above ? 12 : -12) + shape + noise + brightness);
}

static void plant_blots(uint8_t *strip, int64_t columns)
{
    for (size_t i = 0; i < sizeof blots / sizeof *blots; i++) {
        int64_t r = blots[i].radius, middle = columns * blots[i].column / 1000;
        for (int64_t y = -r; y <= r; y++)
            for (int64_t x = -r; x <= r; x++)
                if (x * x + y * y <= r * r && middle + x >= 0 && middle + x < columns)
                    strip[(blots[i].line + y) * columns + middle + x] = 40;
    }
}

static GC_ERROR render_strip(struct picture *picture, const struct config *config)
{
    picture->columns = config->columns ? config->columns : RENDERED_COLUMNS;
    picture->lines = RENDERED_LINES;
    picture->rendered = malloc((size_t)(picture->columns * picture->lines));
    if (!picture->rendered)
        return fail(GC_ERR_OUT_OF_MEMORY, "no memory for the rendered web");
    uint8_t *pixel = picture->rendered;
    for (int64_t line = 0; line < picture->lines; line++)
        for (int64_t column = 0; column < picture->columns; column++)
            *pixel++ = weave(line, column, (uint32_t)config->seed);
    plant_blots(picture->rendered, picture->columns);
    picture->strip = picture->rendered;
    return GC_ERR_SUCCESS;
}

GC_ERROR picture_open(struct picture *picture, const struct config *config)
{
    if (picture->strip)
        return GC_ERR_SUCCESS;
    memset(picture, 0, sizeof *picture);
    GC_ERROR error = *config->strip ? map_strip(picture, config) : render_strip(picture, config);
    if (error)
        picture_close(picture);
    return error;
}

void picture_close(struct picture *picture)
{
    if (picture->mapped)
        munmap(picture->mapped, picture->mapped_size);
    free(picture->rendered);
    free(picture->converted);
    free(picture->ramp);
    memset(picture, 0, sizeof *picture);
}

/* ---- pixel formats ------------------------------------------------------------------------------------------- */

size_t row_bytes_of(int64_t pixel_format, int64_t width)
{
    switch (pixel_format) {
    case MONO10:
    case MONO12:
        return (size_t)width * 2;
    case MONO12P:
        return (size_t)width * 3 / 2;
    case RGB8:
        return (size_t)width * 3;
    default:
        return (size_t)width;
    }
}

static int full_scale(int64_t pixel_format)
{
    switch (pixel_format) {
    case MONO10:
        return 1023;
    case MONO12:
    case MONO12P:
        return 4095;
    default:
        return 255;
    }
}

/* Two pixels in three bytes, the first in the low bits (PFNC, "p" for packed). */
static void put_12p(uint8_t *row, int64_t column, int level)
{
    uint8_t *bytes = row + column / 2 * 3;
    if (column % 2 == 0) {
        bytes[0] = (uint8_t)level;
        bytes[1] = (uint8_t)((bytes[1] & 0xF0) | level >> 8);
    } else {
        bytes[1] = (uint8_t)((bytes[1] & 0x0F) | (level & 0xF) << 4);
        bytes[2] = (uint8_t)(level >> 4);
    }
}

static void put_pixel(uint8_t *row, int64_t pixel_format, int64_t column, int level)
{
    switch (pixel_format) {
    case MONO8:
        row[column] = (uint8_t)level;
        break;
    case MONO12P:
        put_12p(row, column, level);
        break;
    case RGB8:
        memset(row + 3 * column, level, 3);
        break;
    default:
        row[2 * column] = (uint8_t)level;
        row[2 * column + 1] = (uint8_t)(level >> 8);
    }
}

static void convert_row(const struct picture *picture, const uint8_t *grey, uint8_t *row)
{
    for (int64_t column = 0; column < picture->format.width; column++)
        put_pixel(row, picture->format.pixel_format, column, picture->levels[grey[column]]);
}

/* Grey 255 becomes full scale in every format; gain and black level act on the result, as on a sensor. */
static bool set_levels(struct picture *picture)
{
    int full = full_scale(picture->format.pixel_format);
    bool same = true;
    for (int grey = 0; grey < 256; grey++) {
        double level = grey * full / 255.0 * picture->format.gain + (double)picture->format.black * full / 255.0;
        picture->levels[grey] = (uint16_t)(level > full ? full : level + 0.5);
        same = same && picture->levels[grey] == grey;
    }
    return same;
}

/* ---- the rows of an acquisition ------------------------------------------------------------------------------ */

#define CONVERT_AHEAD_BYTES (INT64_C(512) << 20) /* above this, each line is converted when it comes */

static GC_ERROR make_ramp(struct picture *picture)
{
    if (!picture->ramp)
        picture->ramp = malloc((size_t)picture->columns);
    if (!picture->ramp)
        return fail(GC_ERR_OUT_OF_MEMORY, "no memory for the test pattern");
    for (int64_t column = 0; column < picture->columns; column++)
        picture->ramp[column] = (uint8_t)column;
    return GC_ERR_SUCCESS;
}

static const uint8_t *grey_row(const struct picture *picture, int64_t row)
{
    if (picture->format.test_pattern)
        return picture->ramp + picture->format.offset_x;
    return picture->strip + row * picture->columns + picture->format.offset_x;
}

static void convert_ahead(struct picture *picture)
{
    picture->stride = picture->format.row_bytes;
    if (picture->row_count * (int64_t)picture->stride > CONVERT_AHEAD_BYTES)
        return;
    picture->converted = malloc((size_t)picture->row_count * picture->stride);
    for (int64_t row = 0; picture->converted && row < picture->row_count; row++)
        convert_row(picture, grey_row(picture, row), picture->converted + (size_t)row * picture->stride);
    picture->rows = picture->converted;
}

static bool same_look(const struct format *a, const struct format *b)
{
    return a->width == b->width && a->offset_x == b->offset_x && a->pixel_format == b->pixel_format &&
           a->gain == b->gain && a->black == b->black && a->test_pattern == b->test_pattern;
}

GC_ERROR picture_prepare(struct picture *picture, const struct format *format)
{
    bool ready = picture->ready && same_look(&picture->format, format);
    picture->format = *format;
    if (ready)
        return GC_ERR_SUCCESS;
    if (format->test_pattern && make_ramp(picture))
        return last_error();
    free(picture->converted);
    picture->converted = NULL;
    picture->rows = NULL;
    picture->row_count = format->test_pattern ? 1 : picture->lines;
    if (set_levels(picture) && format->pixel_format == MONO8) {
        picture->rows = grey_row(picture, 0);
        picture->stride = (size_t)picture->columns;
    } else {
        convert_ahead(picture);
    }
    picture->ready = true;
    return GC_ERR_SUCCESS;
}

static void paint_run(const struct picture *picture, uint8_t *image, int64_t row, int64_t count)
{
    size_t bytes = picture->format.row_bytes;
    if (picture->rows && picture->stride == bytes) {
        memcpy(image, picture->rows + (size_t)row * bytes, (size_t)count * bytes);
        return;
    }
    for (int64_t i = 0; i < count; i++, image += bytes) {
        if (picture->rows)
            memcpy(image, picture->rows + (size_t)(row + i) * picture->stride, bytes);
        else
            convert_row(picture, grey_row(picture, row + i), image);
    }
}

/* The part of [from, to) in the frame gets one level: the lamp is off, or blinds the sensor. */
static void paint_flat(const struct picture *picture, uint8_t *image, int64_t first_line, int64_t lines, int64_t from,
                       int64_t to, bool bright)
{
    int64_t begin = from > first_line ? from : first_line, end = least(to, first_line + lines);
    if (begin >= end)
        return;
    size_t bytes = picture->format.row_bytes;
    uint8_t *row = image + (size_t)(begin - first_line) * bytes;
    memset(row, 0, (size_t)(end - begin) * bytes);
    int level = full_scale(picture->format.pixel_format);
    for (int64_t column = 0; bright && column < picture->format.width; column++)
        put_pixel(row, picture->format.pixel_format, column, level);
    for (int64_t line = begin + 1; bright && line < end; line++)
        memcpy(image + (size_t)(line - first_line) * bytes, row, bytes);
}

static void paint_margin(const struct picture *picture, uint8_t *row, int64_t line)
{
    int64_t columns_a_bit = picture->format.margin / 32;
    int full = full_scale(picture->format.pixel_format);
    for (int64_t column = 0; column < picture->format.margin; column++) {
        int64_t bit = 31 - column / columns_a_bit;
        put_pixel(row, picture->format.pixel_format, column, (line >> bit & 1) != 0 ? full : 0);
    }
}

void picture_paint(const struct picture *picture, const struct web *web, uint8_t *image, int64_t first_line,
                   int64_t lines)
{
    size_t bytes = picture->format.row_bytes;
    for (int64_t done = 0; done < lines;) {
        int64_t row = (first_line + done) % picture->row_count;
        int64_t count = least(lines - done, picture->row_count - row);
        paint_run(picture, image + (size_t)done * bytes, row, count);
        done += count;
    }
    paint_flat(picture, image, first_line, lines, web->dark_from, web->dark_to, false);
    paint_flat(picture, image, first_line, lines, web->bright_from, web->bright_to, true);
    for (int64_t i = 0; i < lines && picture->format.margin > 0; i++)
        paint_margin(picture, image + (size_t)i * bytes, first_line + i);
}
