/* One camera: a thread that waits until the web has brought a frame's last line, paints the frame into a queued buffer,
 * and logs what became of its lines. */
#define _GNU_SOURCE
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include "simulator.h"

#define POLL_NS (4 * NS_PER_S / 1000) /* how often the state folder is looked at */

/* ---- encoder and lines --------------------------------------------------------------------------------------- */

static int64_t encoder_at(const struct camera *camera, double line)
{
    const struct config *config = &camera->config;
    if (!config->encoder)
        return -1;
    int64_t counts = (int64_t)(line * config->encoder_counts_per_line);
    return (counts + config->encoder_start - camera->web.encoder_offset) & UINT32_MAX;
}

static int64_t encoder_at_line(const struct camera *camera, int64_t line)
{
    return encoder_at(camera, (double)line);
}

int64_t encoder_now(const struct camera *camera)
{
    return encoder_at(camera, camera->web.started ? web_exact(&camera->web, now_ns()) : 0);
}

/* Bit 0: the web moves; bits 1 and 2: quadrature channels A and B. */
uint32_t line_status(const struct camera *camera, int64_t encoder)
{
    bool moves = camera->web.started && web_position(&camera->web, now_ns()) < web_limit(&camera->web);
    if (!camera->config.encoder)
        return moves;
    uint32_t a = encoder >> 1 & 1, b = (encoder >> 1 ^ encoder) & 1;
    return (uint32_t)moves | a << 1 | b << 2;
}

void camera_note_first_line(struct camera *camera, int64_t now)
{
    if (!camera->frame_open || camera->frame_ns != NEVER)
        return;
    int64_t begins = web_time_of(&camera->web, camera->frame_first);
    if (begins > now)
        return;
    camera->frame_ns = begins;
    camera->frame_encoder = encoder_at_line(camera, camera->frame_first);
    camera->frame_lines_status = line_status(camera, camera->frame_encoder) | 1;
}

void camera_reset_encoder(struct camera *camera)
{
    int64_t now = now_ns();
    camera_note_first_line(camera, now);
    int64_t lines = camera->web.started ? web_position(&camera->web, now) : 0;
    camera->web.encoder_offset =
        lines * (int64_t)camera->config.encoder_counts_per_line + (int64_t)camera->config.encoder_start;
    control_save_web(camera);
}

/* The web's speed is the line rate. Before the acquisition it is only a setting: the web runs on as it did. */
void camera_rate_changed(struct camera *camera)
{
    if (!camera->attending)
        return;
    int64_t now = now_ns();
    camera_note_first_line(camera, now);
    web_rebase(&camera->web, now);
    camera->web.rate = camera_line_rate(camera);
    control_save_web(camera);
    camera_wake(camera);
}

/* ---- frames -------------------------------------------------------------------------------------------------- */

static struct format camera_format(struct camera *camera)
{
    struct format format = {
        .width = feature_integer(camera, F_Width),
        .height = feature_integer(camera, F_Height),
        .offset_x = feature_integer(camera, F_OffsetX),
        .pixel_format = feature_integer(camera, F_PixelFormat),
        .gain = camera->values[F_Gain][0].real,
        .black = feature_integer(camera, F_BlackLevel),
        .test_pattern = feature_integer(camera, F_TestPattern) != 0,
        .margin = camera->config.margin,
    };
    format.row_bytes = row_bytes_of(format.pixel_format, format.width);
    format.image_bytes = format.row_bytes * (size_t)format.height;
    return format;
}

/* Lines before `line` that no frame has are lost: the log says so. */
static void skip_to(struct camera *camera, int64_t line)
{
    if (line <= camera->accounted)
        return;
    control_log_frame(camera, -1, camera->accounted, line - camera->accounted, "unattended",
                      encoder_at_line(camera, camera->accounted), now_ns());
    camera->accounted = line;
}

static bool look_ready(struct camera *camera)
{
    if (picture_prepare(&camera->picture, &camera->format) == GC_ERR_SUCCESS)
        return true;
    camera->active = false;
    control_log_comment(camera, last_error_text());
    return false;
}

static bool begin_acquisition(struct camera *camera)
{
    camera->format = camera_format(camera);
    if (!look_ready(camera))
        return false;
    struct web *web = &camera->web;
    int64_t now = now_ns();
    if (!web->started) {
        web->started = true;
        web->base_ns = now;
        web->base_line = camera->accounted;
    } else if (web->rate != camera_line_rate(camera)) {
        web_rebase(web, now);
    }
    web->rate = camera_line_rate(camera);
    control_save_web(camera);
    skip_to(camera, web_next_line(web, now));
    camera->frame_id = camera->config.first_frame_id;
    camera->attending = true;
    return true;
}

static bool open_frame(struct camera *camera)
{
    if (camera->values[F_TriggerMode][FRAME_START].integer) {
        if (!camera->triggered)
            return false;
        camera->triggered = false;
        skip_to(camera, web_next_line(&camera->web, now_ns()));
    }
    camera->format = camera_format(camera); /* gain, black level and test pattern may change between frames */
    if (!look_ready(camera))
        return false;
    camera->frame_open = true;
    camera->frame_first = camera->accounted;
    camera->frame_ns = NEVER;
    return true;
}

static void add_chunk(struct frame_info *info, uint64_t id, size_t offset, size_t length)
{
    info->chunks[info->chunk_count++] =
        (SINGLE_CHUNK_DATA){.ChunkID = id, .ChunkOffset = (ptrdiff_t)offset, .ChunkLength = length};
}

/* Where the chunks lie behind `at`, each with its tag; returns where they end. */
static size_t place_chunks(const struct camera *camera, struct frame_info *info, size_t at)
{
    for (int chunk = 0; chunk < CHUNKS; chunk++) {
        if (!chunk_enabled(camera, chunk))
            continue;
        add_chunk(info, (uint64_t)(CHUNK_ID_FIRST + chunk), at, CHUNK_VALUE_BYTES);
        at += CHUNK_VALUE_BYTES + CHUNK_TAG_BYTES;
    }
    return at;
}

static void place_image(const struct camera *camera, struct frame_info *info, size_t at)
{
    info->image_offset = at;
    if (image_tagged(camera))
        add_chunk(info, CHUNK_ID_IMAGE, at, info->format.image_bytes);
}

/* An incomplete frame has the first half of its lines and has lost its trailer, and with it the chunks. */
static void cut_short(struct frame_info *info, size_t room)
{
    size_t row = info->format.row_bytes;
    info->delivered_lines = info->format.height / 2;
    room -= room < info->image_offset ? room : info->image_offset;
    if ((size_t)info->delivered_lines * row > room)
        info->delivered_lines = (int64_t)(room / row);
    info->filled_bytes = info->delivered_lines ? info->image_offset + (size_t)info->delivered_lines * row : 0;
    info->chunk_count = 0;
}

static void lay_out(struct camera *camera, struct buffer *buffer, bool incomplete)
{
    struct frame_info *info = &buffer->info;
    bool chunks = feature_integer(camera, F_ChunkModeActive) != 0;
    int64_t layout = chunks ? feature_integer(camera, F_ChunkLayout) : IMAGE_THEN_CHUNKS;
    info->payload_type = layout == IMAGE_THEN_CHUNKS ? PAYLOAD_TYPE_IMAGE : PAYLOAD_TYPE_CHUNK_DATA;
    if (layout == CHUNKS_THEN_IMAGE) {
        place_image(camera, info, place_chunks(camera, info, 0));
    } else {
        place_image(camera, info, 0);
        place_chunks(camera, info, info->format.image_bytes + (image_tagged(camera) ? CHUNK_TAG_BYTES : 0));
    }
    info->data_bytes = info->filled_bytes = payload_bytes(camera);
    info->delivered_lines = info->format.height;
    info->larger_than_buffer = info->data_bytes > buffer->size;
    info->incomplete = incomplete || info->larger_than_buffer;
    info->has_chunks = chunks && !info->incomplete;
    if (info->incomplete)
        cut_short(info, buffer->size);
}

/* A chunk is followed by its tag, id and length, most significant byte first: one reads from the end. */
static void write_tag(uint8_t *at, uint64_t id, size_t length)
{
    for (int i = 0; i < 4; i++) {
        at[i] = (uint8_t)(id >> (24 - 8 * i));
        at[4 + i] = (uint8_t)(length >> (24 - 8 * i));
    }
}

static void write_chunks(const struct buffer *buffer, const uint64_t values[CHUNKS])
{
    for (size_t i = 0; i < buffer->info.chunk_count; i++) {
        const SINGLE_CHUNK_DATA *chunk = &buffer->info.chunks[i];
        uint8_t *at = buffer->memory + chunk->ChunkOffset;
        for (size_t byte = 0; chunk->ChunkID != CHUNK_ID_IMAGE && byte < CHUNK_VALUE_BYTES; byte++)
            at[byte] = (uint8_t)(values[chunk->ChunkID - CHUNK_ID_FIRST] >> 8 * byte);
        write_tag(at + chunk->ChunkLength, chunk->ChunkID, chunk->ChunkLength);
    }
}

/* The lock is released while pixels are written; the stream waits for that before it gives the buffer up. */
static void fill(struct camera *camera, struct buffer *buffer, bool incomplete)
{
    struct frame_info *info = &buffer->info;
    *info = (struct frame_info){
        .has_data = true,
        .id = camera->frame_id,
        .timestamp_ns = (uint64_t)(camera->frame_ns + camera->config.timestamp_offset_ns),
        .format = camera->format,
    };
    lay_out(camera, buffer, incomplete);
    uint64_t values[CHUNKS] = {
        [CHUNK_TIMESTAMP] = info->timestamp_ns,
        [CHUNK_FRAME_ID] = info->id,
        [CHUNK_ENCODER] = (uint64_t)camera->frame_encoder,
        [CHUNK_LINES] = camera->frame_lines_status,
    };
    struct web web = camera->web;
    int64_t first = camera->frame_first;
    pthread_mutex_unlock(&lock);
    if (info->delivered_lines > 0)
        picture_paint(&camera->picture, &web, buffer->memory + info->image_offset, first, info->delivered_lines);
    write_chunks(buffer, values);
    pthread_mutex_lock(&lock);
}

static uint64_t next_frame_id(const struct camera *camera)
{
    uint64_t id = camera->frame_id + 1;
    return camera->config.frame_id_bits == 16 && id > UINT16_MAX ? 1 : id; /* GigE Vision 1.x passes over 0 */
}

/* All lines of the frame are exposed: it is delivered, or lost. The log is written before the frame can be fetched. */
static void end_frame(struct camera *camera)
{
    struct stream *stream = camera->stream;
    int64_t first = camera->frame_first, lines = camera->format.height, id = (int64_t)camera->frame_id;
    const char *outcome = "delivered";
    struct buffer *buffer = NULL;
    camera->frame_open = false;
    camera->frame_id = next_frame_id(camera);
    if (camera->drop > 0) {
        camera->drop--;
        outcome = "dropped";
    } else if ((buffer = stream_take_buffer(stream)) == NULL) {
        stream->underrun++;
        outcome = "overrun";
    }
    int64_t encoder = camera->frame_encoder, ns = camera->frame_ns;
    if (buffer) {
        bool incomplete = camera->incomplete > 0;
        camera->incomplete -= incomplete;
        camera->frame_id = (uint64_t)id;
        fill(camera, buffer, incomplete);
        camera->frame_id = next_frame_id(camera);
        outcome = buffer->info.incomplete ? "incomplete" : "delivered";
    }
    control_log_frame(camera, id, first, lines, outcome, encoder, ns);
    camera->accounted = first + lines;
    if (camera->frames_left != GENTL_INFINITE && --camera->frames_left == 0)
        camera->active = false;
    if (buffer)
        stream_deliver(stream, buffer);
}

/* ---- the thread ---------------------------------------------------------------------------------------------- */

static bool wanted(const struct camera *camera)
{
    const struct stream *stream = camera->stream;
    return camera->active && !camera->lost && stream && stream->started && stream->frames_left > 0;
}

/* Does what is due; returns the time at which something will be, 0 for at once. */
static int64_t attend(struct camera *camera, int64_t now)
{
    if (!wanted(camera)) {
        camera->attending = camera->frame_open = false;
        return NEVER;
    }
    if (!camera->attending && !begin_acquisition(camera))
        return NEVER;
    if (!camera->frame_open && !open_frame(camera))
        return NEVER;
    int64_t due = web_time_of(&camera->web, camera->frame_first + camera->format.height);
    if (due > now)
        return due;
    camera_note_first_line(camera, now);
    end_frame(camera);
    return 0;
}

static void *run(void *argument)
{
    struct camera *camera = argument;
    int64_t poll = *library.folder ? 0 : NEVER;
    pthread_setname_np(pthread_self(), "linescan_sim"); /* whoever measures a consumer can tell it apart */
    pthread_mutex_lock(&lock);
    while (!camera->quit) {
        int64_t now = now_ns();
        if (now >= poll) {
            control_poll(camera);
            poll = now + POLL_NS;
        }
        int64_t due = attend(camera, now);
        if (due > now) {
            condition_wait_until(&camera->wake, due < poll ? due : poll);
        } else { /* far behind, frame follows frame: let the program's calls in between */
            pthread_mutex_unlock(&lock);
            sched_yield();
            pthread_mutex_lock(&lock);
        }
    }
    pthread_mutex_unlock(&lock);
    return NULL;
}

void camera_wake(struct camera *camera)
{
    pthread_cond_broadcast(&camera->wake);
}

/* ---- open, close, start, stop -------------------------------------------------------------------------------- */

static void forget(struct camera *camera)
{
    control_close(camera);
    handle_free(camera->device);
    handle_free(camera->remote);
    camera->device = camera->remote = NULL;
}

GC_ERROR camera_open(struct camera *camera, int32_t access)
{
    GC_ERROR error = picture_open(&camera->picture, &camera->config);
    if (!error)
        error = control_open(camera);
    if (error)
        return error;
    camera->access = access;
    camera->lost = camera->quit = camera->active = camera->attending = camera->frame_open = false;
    camera->drop = camera->incomplete = 0;
    camera->web.end_line = camera->config.loop ? NEVER : camera->picture.lines;
    if (camera->config.max_lines > 0 && camera->config.max_lines < camera->web.end_line)
        camera->web.end_line = camera->config.max_lines;
    features_reset(camera);
    camera->device = handle_new(HANDLE_DEVICE, camera);
    camera->remote = handle_new(HANDLE_REMOTE, camera);
    if (!camera->device || !camera->remote) {
        forget(camera);
        return last_error();
    }
    if (pthread_create(&camera->thread, NULL, run, camera)) {
        forget(camera);
        return fail(GC_ERR_RESOURCE_EXHAUSTED, "%s: no thread", camera->serial);
    }
    return GC_ERR_SUCCESS;
}

void camera_close(struct camera *camera)
{
    if (!camera->device)
        return;
    handle_free(camera->device); /* from here on nobody finds the camera */
    handle_free(camera->remote);
    if (camera->stream)
        stream_close(camera->stream);
    camera->quit = true;
    camera_wake(camera);
    pthread_mutex_unlock(&lock);
    pthread_join(camera->thread, NULL);
    pthread_mutex_lock(&lock);
    forget(camera);
}

GC_ERROR camera_start(struct camera *camera)
{
    if (camera->active)
        return GC_ERR_SUCCESS;
    int64_t mode = feature_integer(camera, F_AcquisitionMode);
    camera->frames_left = mode == CONTINUOUS     ? GENTL_INFINITE
                          : mode == SINGLE_FRAME ? 1
                                                 : (uint64_t)feature_integer(camera, F_AcquisitionFrameCount);
    camera->active = true;
    camera->attending = camera->frame_open = camera->triggered = false;
    camera_wake(camera);
    return GC_ERR_SUCCESS;
}

void camera_stop(struct camera *camera)
{
    camera->active = camera->attending = camera->frame_open = false;
    camera_wake(camera);
}

void camera_lose(struct camera *camera)
{
    camera_stop(camera);
    camera->lost = true;
}

bool camera_is_lost(struct camera *camera)
{
    if (!camera->lost && control_unplugged(camera))
        camera_lose(camera);
    return camera->lost;
}
