/* sim.conf: `key = value`, sections [SIM0001] and [SIM0002]; keys above the first section hold for both cameras. */
#define _GNU_SOURCE
#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "simulator.h"

struct place { /* where in the file we are, for errors */
    const char *file;
    int line;
    const char *key, *value;
};

static GC_ERROR refuse(const struct place *place, const char *expected)
{
    return fail(GC_ERR_INVALID_VALUE, "%s:%d: %s = %s: expected %s", place->file, place->line, place->key,
                place->value, expected);
}

static GC_ERROR read_integer(const struct place *place, int64_t least, int64_t most, int64_t *into)
{
    char *end;
    char expected[64];
    errno = 0;
    long long value = strtoll(place->value, &end, 0);
    if (errno || end == place->value || *end || value < least || value > most) {
        snprintf(expected, sizeof expected, "a whole number, %" PRId64 " to %" PRId64, least, most);
        return refuse(place, expected);
    }
    *into = value;
    return GC_ERR_SUCCESS;
}

static GC_ERROR read_word(const struct place *place, const char *no, const char *yes, bool *into)
{
    char expected[64];
    if (strcmp(place->value, yes) == 0)
        *into = true;
    else if (strcmp(place->value, no) == 0)
        *into = false;
    else {
        snprintf(expected, sizeof expected, "%s or %s", yes, no);
        return refuse(place, expected);
    }
    return GC_ERR_SUCCESS;
}

static GC_ERROR read_rate(const struct place *place, double *into)
{
    char *end;
    double value = strtod(place->value, &end);
    if (end == place->value || *end || !isfinite(value) || value < 1 || value > 200000)
        return refuse(place, "a line rate in Hz, 1 to 200000");
    *into = value;
    return GC_ERR_SUCCESS;
}

static GC_ERROR read_strip(const struct place *place, const char *folder, struct config *config)
{
    int length = *place->value == '/' ? snprintf(config->strip, sizeof config->strip, "%s", place->value)
                                      : snprintf(config->strip, sizeof config->strip, "%s/%s", folder, place->value);
    if (length >= (int)sizeof config->strip)
        return refuse(place, "a shorter path");
    config->strip_line = place->line;
    return GC_ERR_SUCCESS;
}

static GC_ERROR read_text(const struct place *place, char *into, size_t room)
{
    if (strlen(place->value) >= room)
        return refuse(place, "a shorter text");
    snprintf(into, room, "%s", place->value);
    return GC_ERR_SUCCESS;
}

static GC_ERROR read_columns(const struct place *place, int64_t *into)
{
    GC_ERROR error = read_integer(place, 64, 16384, into);
    return !error && *into % 4 ? refuse(place, "a multiple of 4") : error;
}

static GC_ERROR read_margin(const struct place *place, int64_t *into)
{
    GC_ERROR error = read_integer(place, 0, 64, into);
    return !error && *into % 32 ? refuse(place, "0, 32 or 64") : error;
}

static GC_ERROR read_unsigned(const struct place *place, int64_t least, uint32_t *into)
{
    int64_t value = 0;
    GC_ERROR error = read_integer(place, least, UINT32_MAX, &value);
    *into = (uint32_t)value;
    return error;
}

static GC_ERROR read_frame_id_bits(const struct place *place, int64_t *into)
{
    GC_ERROR error = read_integer(place, 16, 64, into);
    return !error && *into != 16 && *into != 64 ? refuse(place, "16 or 64") : error;
}

static GC_ERROR read_first_frame_id(const struct place *place, uint64_t *into)
{
    int64_t value = 0;
    GC_ERROR error = read_integer(place, 0, UINT16_MAX, &value);
    *into = (uint64_t)value;
    return error;
}

static GC_ERROR read_key(const struct place *place, const char *folder, struct config *config)
{
#define IS(name) (strcmp(place->key, name) == 0)
    if (IS("strip"))
        return read_strip(place, folder, config);
    if (IS("loop"))
        return read_word(place, "no", "yes", &config->loop);
    if (IS("columns"))
        return read_columns(place, &config->columns);
    if (IS("line_rate"))
        return read_rate(place, &config->line_rate);
    if (IS("encoder"))
        return read_word(place, "no", "yes", &config->encoder);
    if (IS("encoder_counts_per_line"))
        return read_unsigned(place, 1, &config->encoder_counts_per_line);
    if (IS("encoder_start"))
        return read_unsigned(place, 0, &config->encoder_start);
    if (IS("margin"))
        return read_margin(place, &config->margin);
    if (IS("first_frame_id"))
        return read_first_frame_id(place, &config->first_frame_id);
    if (IS("frame_id_bits"))
        return read_frame_id_bits(place, &config->frame_id_bits);
    if (IS("clock"))
        return read_word(place, "free", "web", &config->clock_web);
    if (IS("max_lines"))
        return read_integer(place, 0, INT64_MAX / 2, &config->max_lines);
    if (IS("transport"))
        return read_word(place, "Custom", "GEV", &config->gige);
    if (IS("timestamp_offset_ns"))
        return read_integer(place, 0, INT64_MAX / 2, &config->timestamp_offset_ns);
    if (IS("seed"))
        return read_integer(place, 0, UINT32_MAX, &config->seed);
    if (IS("user_id"))
        return read_text(place, config->user_id, sizeof config->user_id);
#undef IS
    return fail(GC_ERR_INVALID_VALUE, "%s:%d: %s: no such key", place->file, place->line, place->key);
}

static char *trim(char *text)
{
    while (isspace((unsigned char)*text))
        text++;
    size_t length = strlen(text);
    while (length > 0 && isspace((unsigned char)text[length - 1]))
        text[--length] = '\0';
    return text;
}

/* Which cameras a section names: sets bits of `cameras`, one a camera. */
static GC_ERROR read_section(struct place *place, const char *name, const char *const serials[], unsigned *cameras)
{
    for (int i = 0; i < CAMERA_COUNT; i++) {
        size_t length = strlen(serials[i]);
        if (name[0] == '[' && strncmp(name + 1, serials[i], length) == 0 && strcmp(name + 1 + length, "]") == 0) {
            *cameras = 1U << i;
            return GC_ERR_SUCCESS;
        }
    }
    return fail(GC_ERR_INVALID_VALUE, "%s:%d: %s: expected [%s] or [%s]", place->file, place->line, name, serials[0],
                serials[1]);
}

static GC_ERROR read_line(struct place *place, char *line, const char *folder, const char *const serials[],
                          struct config configs[], unsigned *cameras)
{
    char *comment = strchr(line, '#');
    if (comment)
        *comment = '\0';
    line = trim(line);
    if (*line == '\0')
        return GC_ERR_SUCCESS;
    if (*line == '[')
        return read_section(place, line, serials, cameras);
    char *equals = strchr(line, '=');
    if (!equals)
        return fail(GC_ERR_INVALID_VALUE, "%s:%d: %s: expected key = value", place->file, place->line, line);
    *equals = '\0';
    place->key = trim(line);
    place->value = trim(equals + 1);
    for (int i = 0; i < CAMERA_COUNT; i++) {
        GC_ERROR error = *cameras & 1U << i ? read_key(place, folder, &configs[i]) : GC_ERR_SUCCESS;
        if (error)
            return error;
    }
    return GC_ERR_SUCCESS;
}

/* Opened once here, so that a bad strip is known at GCInitLib and not when a camera is opened. */
static GC_ERROR check_strip(const char *file, const char *serial, const struct config *config)
{
    struct picture picture = {0};
    if (!*config->strip)
        return GC_ERR_SUCCESS;
    GC_ERROR error = picture_open(&picture, config);
    picture_close(&picture);
    if (!error)
        return GC_ERR_SUCCESS;
    char reason[400];
    snprintf(reason, sizeof reason, "%s", last_error_text());
    return fail(GC_ERR_INVALID_VALUE, "%s:%d: [%s] strip: %s", file, config->strip_line, serial, reason);
}

static GC_ERROR read_file(const char *path, const char *folder, const char *const serials[], struct config configs[])
{
    FILE *file = fopen(path, "re");
    if (!file && errno == ENOENT)
        return GC_ERR_SUCCESS; /* a state folder without sim.conf: defaults, but with log and commands */
    if (!file)
        return fail(GC_ERR_IO, "%s: %s", path, strerror(errno));
    struct place place = {.file = path};
    unsigned cameras = (1U << CAMERA_COUNT) - 1;
    GC_ERROR error = GC_ERR_SUCCESS;
    char *line = NULL;
    size_t room = 0;
    while (!error && getline(&line, &room, file) >= 0) {
        place.line++;
        error = read_line(&place, line, folder, serials, configs, &cameras);
    }
    free(line);
    fclose(file);
    for (int i = 0; i < CAMERA_COUNT && !error; i++)
        error = check_strip(path, serials[i], &configs[i]);
    return error;
}

GC_ERROR config_load(const char *folder, const char *const serials[CAMERA_COUNT], struct config configs[CAMERA_COUNT])
{
    for (int i = 0; i < CAMERA_COUNT; i++) {
        configs[i] = (struct config){
            .loop = true,
            .line_rate = 10000,
            .encoder = true,
            .encoder_counts_per_line = 4,
            .frame_id_bits = 64,
            .seed = i + 1,
        };
        snprintf(configs[i].user_id, sizeof configs[i].user_id, "camera %d", i);
    }
    if (!folder)
        return GC_ERR_SUCCESS;
    char path[PATH_MAX];
    if (snprintf(path, sizeof path, "%s/sim.conf", folder) >= (int)sizeof path - 32)
        return fail(GC_ERR_INVALID_VALUE, "LINESCAN_SIM_DIR is too long");
    return read_file(path, folder, serials, configs);
}
