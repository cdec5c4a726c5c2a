/* The data stream: buffers and the queues they go through. */
#define _GNU_SOURCE
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "simulator.h"

static pthread_cond_t filled = PTHREAD_COND_INITIALIZER; /* of no stream: whoever waits may see its stream closed */

/* ---- queues -------------------------------------------------------------------------------------------------- */

void queue_push(struct queue *queue, struct buffer *buffer, enum buffer_place place)
{
    buffer->next_queued = NULL;
    buffer->place = place;
    if (queue->last)
        queue->last->next_queued = buffer;
    else
        queue->first = buffer;
    queue->last = buffer;
    queue->length++;
}

struct buffer *queue_pop(struct queue *queue, enum buffer_place place)
{
    struct buffer *buffer = queue->first;
    if (!buffer)
        return NULL;
    queue->first = buffer->next_queued;
    if (!queue->first)
        queue->last = NULL;
    queue->length--;
    buffer->place = place;
    return buffer;
}

struct buffer *stream_take_buffer(struct stream *stream)
{
    struct buffer *buffer = queue_pop(&stream->input, FILLING);
    stream->filling = buffer;
    return buffer;
}

static void tell(struct stream *stream)
{
    if (stream->event) {
        stream->event->fired++;
        pthread_cond_broadcast(&stream->event->wake);
    }
}

void stream_deliver(struct stream *stream, struct buffer *buffer)
{
    stream->filling = NULL;
    queue_push(&stream->output, buffer, AWAITING_DELIVERY);
    stream->started_frames++;
    if (stream->frames_left != GENTL_INFINITE)
        stream->frames_left--;
    tell(stream);
    pthread_cond_broadcast(&filled);
}

/* The stream once no buffer of it is being filled; NULL: it was closed meanwhile, or never open. */
static struct stream *settled_stream(HANDLE handle)
{
    struct stream *stream;
    while ((stream = handle_find(HANDLE_STREAM, handle)) != NULL && stream->filling)
        condition_wait_until(&filled, NEVER);
    return stream;
}

/* ---- open and close ------------------------------------------------------------------------------------------ */

GC_ERROR stream_open(struct camera *camera, HANDLE *handle)
{
    if (camera->stream)
        return fail(GC_ERR_RESOURCE_IN_USE, "the stream is open");
    struct stream *stream = calloc(1, sizeof *stream);
    if (!stream)
        return fail(GC_ERR_OUT_OF_MEMORY, "no memory for the stream");
    stream->handle = handle_new(HANDLE_STREAM, stream);
    if (!stream->handle) {
        free(stream);
        return last_error();
    }
    stream->camera = camera;
    camera->stream = stream;
    *handle = stream->handle;
    return GC_ERR_SUCCESS;
}

static void buffer_free(struct buffer *buffer)
{
    handle_free(buffer->handle);
    if (buffer->owned)
        free(buffer->memory);
    free(buffer);
}

void stream_close(struct stream *stream)
{
    handle_free(stream->handle); /* from here on nobody else finds the stream */
    stream->started = false;
    camera_wake(stream->camera);
    while (stream->filling)
        condition_wait_until(&filled, NEVER);
    stream->camera->stream = NULL;
    stream->camera->attending = stream->camera->frame_open = false;
    event_close(stream);
    for (struct buffer *buffer = stream->announced, *next; buffer; buffer = next) {
        next = buffer->next_announced;
        buffer_free(buffer);
    }
    free(stream);
}

GC_API DSClose(HANDLE handle)
{
    enter();
    struct stream *stream = handle_find(HANDLE_STREAM, handle);
    GC_ERROR error = stream ? GC_ERR_SUCCESS : last_error();
    if (stream)
        stream_close(stream);
    return leave(error, "DSClose(%p)", handle);
}

/* ---- finding what a call is about ---------------------------------------------------------------------------- */

/* For calls that need the camera: refused once it was unplugged. What only gives memory back still works then. */
static struct stream *plugged_stream(HANDLE handle)
{
    struct stream *stream = handle_find(HANDLE_STREAM, handle);
    if (stream && camera_is_lost(stream->camera)) {
        fail(GC_ERR_NOT_AVAILABLE, "%s was unplugged", stream->camera->serial);
        return NULL;
    }
    return stream;
}

struct buffer *stream_buffer(const struct stream *stream, HANDLE handle)
{
    struct buffer *buffer = stream ? handle_find(HANDLE_BUFFER, handle) : NULL;
    if (buffer && buffer->stream != stream) {
        fail(GC_ERR_INVALID_HANDLE, "the buffer belongs to another stream");
        return NULL;
    }
    return buffer;
}

/* ---- announce, revoke, queue --------------------------------------------------------------------------------- */

static GC_ERROR announce(HANDLE handle, void *memory, size_t size, void *user, bool owned, HANDLE *given)
{
    struct stream *stream = plugged_stream(handle);
    if (!stream)
        return last_error();
    if (!memory || size == 0 || !given)
        return fail(GC_ERR_INVALID_PARAMETER, "no memory, no size, or no place for the handle");
    struct buffer *buffer = calloc(1, sizeof *buffer);
    if (!buffer)
        return fail(GC_ERR_OUT_OF_MEMORY, "no memory for the buffer");
    buffer->handle = handle_new(HANDLE_BUFFER, buffer);
    if (!buffer->handle) {
        free(buffer);
        return last_error();
    }
    buffer->stream = stream;
    buffer->memory = memory;
    buffer->size = size;
    buffer->user = user;
    buffer->owned = owned;
    struct buffer **end = &stream->announced;
    while (*end)
        end = &(*end)->next_announced;
    *end = buffer;
    stream->announced_count++;
    *given = buffer->handle;
    return GC_ERR_SUCCESS;
}

GC_API DSAnnounceBuffer(HANDLE stream, void *memory, size_t size, void *user, HANDLE *buffer)
{
    enter();
    GC_ERROR error = announce(stream, memory, size, user, false, buffer);
    return leave(error, "DSAnnounceBuffer(%p, %zu) -> %p", stream, size, error ? NULL : *buffer);
}

GC_API DSAllocAndAnnounceBuffer(HANDLE stream, size_t size, void *user, HANDLE *buffer)
{
    enter();
    void *memory = size > 0 && size <= PTRDIFF_MAX ? calloc(1, size) : NULL;
    GC_ERROR error = announce(stream, memory, size, user, true, buffer);
    if (error)
        free(memory);
    return leave(error, "DSAllocAndAnnounceBuffer(%p, %zu) -> %p", stream, size, error ? NULL : *buffer);
}

static GC_ERROR revoke(HANDLE handle, HANDLE buffer_handle, void **memory, void **user)
{
    struct stream *stream = handle_find(HANDLE_STREAM, handle);
    struct buffer *buffer = stream_buffer(stream, buffer_handle);
    if (!buffer)
        return last_error();
    if (buffer->place != ANNOUNCED)
        return fail(GC_ERR_BUSY, "the buffer is in a queue: flush first");
    struct buffer **at = &stream->announced;
    while (*at != buffer)
        at = &(*at)->next_announced;
    *at = buffer->next_announced;
    stream->announced_count--;
    if (memory)
        *memory = buffer->owned ? NULL : buffer->memory;
    if (user)
        *user = buffer->user;
    buffer_free(buffer);
    return GC_ERR_SUCCESS;
}

GC_API DSRevokeBuffer(HANDLE stream, HANDLE buffer, void **memory, void **user)
{
    enter();
    return leave(revoke(stream, buffer, memory, user), "DSRevokeBuffer(%p, %p)", stream, buffer);
}

static void enqueue(struct stream *stream, struct buffer *buffer)
{
    buffer->info = (struct frame_info){0};
    queue_push(&stream->input, buffer, QUEUED);
}

static GC_ERROR queue_buffer(HANDLE handle, HANDLE buffer_handle)
{
    struct stream *stream = plugged_stream(handle);
    struct buffer *buffer = stream_buffer(stream, buffer_handle);
    if (!buffer)
        return last_error();
    if (buffer->place != ANNOUNCED)
        return fail(GC_ERR_RESOURCE_IN_USE, "the buffer is queued already");
    enqueue(stream, buffer);
    return GC_ERR_SUCCESS;
}

GC_API DSQueueBuffer(HANDLE stream, HANDLE buffer)
{
    enter();
    return leave(queue_buffer(stream, buffer), "DSQueueBuffer(%p, %p)", stream, buffer);
}

static void enqueue_idle(struct stream *stream)
{
    for (struct buffer *buffer = stream->announced; buffer; buffer = buffer->next_announced)
        if (buffer->place == ANNOUNCED)
            enqueue(stream, buffer);
}

static GC_ERROR flush(HANDLE handle, int32_t operation)
{
    struct stream *stream = settled_stream(handle);
    if (!stream)
        return last_error();
    if (operation < ACQ_QUEUE_INPUT_TO_OUTPUT || operation > ACQ_QUEUE_ALL_DISCARD)
        return fail(GC_ERR_INVALID_PARAMETER, "no such operation: %" PRId32, operation);
    struct buffer *buffer;
    while (operation == ACQ_QUEUE_INPUT_TO_OUTPUT && (buffer = queue_pop(&stream->input, ANNOUNCED))) {
        queue_push(&stream->output, buffer, AWAITING_DELIVERY);
        tell(stream);
    }
    if (operation != ACQ_QUEUE_INPUT_TO_OUTPUT && operation != ACQ_QUEUE_UNQUEUED_TO_INPUT)
        while (queue_pop(&stream->output, ANNOUNCED))
            ;
    while (operation == ACQ_QUEUE_ALL_DISCARD && queue_pop(&stream->input, ANNOUNCED))
        ;
    if (operation == ACQ_QUEUE_ALL_TO_INPUT || operation == ACQ_QUEUE_UNQUEUED_TO_INPUT)
        enqueue_idle(stream);
    return GC_ERR_SUCCESS;
}

GC_API DSFlushQueue(HANDLE stream, int32_t operation)
{
    enter();
    return leave(flush(stream, operation), "DSFlushQueue(%p, %" PRId32 ")", stream, operation);
}

/* ---- start and stop ------------------------------------------------------------------------------------------ */

static GC_ERROR start(HANDLE handle, int32_t flags, uint64_t frames)
{
    struct stream *stream = plugged_stream(handle);
    if (!stream)
        return last_error();
    if (flags != ACQ_START_FLAGS_DEFAULT || frames == 0)
        return fail(GC_ERR_INVALID_PARAMETER, "flags %" PRId32 ", frames %" PRIu64, flags, frames);
    if (stream->started)
        return fail(GC_ERR_RESOURCE_IN_USE, "the acquisition runs");
    stream->started = true;
    stream->frames_left = frames;
    stream->delivered = stream->underrun = stream->started_frames = 0;
    camera_wake(stream->camera);
    return GC_ERR_SUCCESS;
}

GC_API DSStartAcquisition(HANDLE stream, int32_t flags, uint64_t frames)
{
    enter();
    GC_ERROR error = start(stream, flags, frames);
    return leave(error, "DSStartAcquisition(%p, %" PRId32 ", %" PRIu64 ")", stream, flags, frames);
}

static GC_ERROR stop(HANDLE handle, int32_t flags)
{
    struct stream *stream = handle_find(HANDLE_STREAM, handle);
    if (!stream)
        return last_error();
    if (flags != ACQ_STOP_FLAGS_DEFAULT && flags != ACQ_STOP_FLAGS_KILL)
        return fail(GC_ERR_INVALID_PARAMETER, "flags %" PRId32, flags);
    if (!stream->started)
        return fail(GC_ERR_RESOURCE_IN_USE, "the acquisition does not run");
    stream->started = false;
    stream->camera->attending = stream->camera->frame_open = false;
    camera_wake(stream->camera);
    return settled_stream(handle) ? GC_ERR_SUCCESS : last_error();
}

GC_API DSStopAcquisition(HANDLE stream, int32_t flags)
{
    enter();
    return leave(stop(stream, flags), "DSStopAcquisition(%p, %" PRId32 ")", stream, flags);
}
