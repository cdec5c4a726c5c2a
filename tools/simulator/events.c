/* The event that tells of a new buffer. */
#define _GNU_SOURCE
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "simulator.h"

static void event_free(struct event *event)
{
    pthread_cond_destroy(&event->wake);
    free(event);
}

/* Whoever still waits is sent home, and the last of them frees the event. */
void event_close(struct stream *stream)
{
    struct event *event = stream->event;
    if (!event)
        return;
    stream->event = NULL;
    handle_free(event->handle);
    event->closed = true;
    if (event->waiting == 0)
        event_free(event);
    else
        pthread_cond_broadcast(&event->wake);
}

static GC_ERROR register_event(HANDLE source, int32_t type, HANDLE *given)
{
    enum handle_kind kind = library.ready ? handle_kind_of(source) : 0;
    if (kind == 0 || kind == HANDLE_EVENT || kind == HANDLE_BUFFER)
        return handle_find(HANDLE_STREAM, source) ? GC_ERR_SUCCESS : last_error();
    if (kind != HANDLE_STREAM || type != EVENT_NEW_BUFFER)
        return fail(GC_ERR_NOT_IMPLEMENTED, "only new buffers of a stream are told of");
    struct stream *stream = handle_find(HANDLE_STREAM, source);
    if (!given)
        return fail(GC_ERR_INVALID_PARAMETER, "no place for the handle");
    if (stream->event)
        return fail(GC_ERR_RESOURCE_IN_USE, "the event is registered");
    struct event *event = calloc(1, sizeof *event);
    if (!event)
        return fail(GC_ERR_OUT_OF_MEMORY, "no memory for the event");
    event->handle = handle_new(HANDLE_EVENT, stream);
    if (!event->handle) {
        free(event);
        return last_error();
    }
    condition_init(&event->wake);
    stream->event = event;
    *given = event->handle;
    return GC_ERR_SUCCESS;
}

GC_API GCRegisterEvent(HANDLE source, int32_t type, HANDLE *event)
{
    enter();
    GC_ERROR error = register_event(source, type, event);
    return leave(error, "GCRegisterEvent(%p, %" PRId32 ") -> %p", source, type, error ? NULL : *event);
}

static GC_ERROR unregister_event(HANDLE source, int32_t type)
{
    struct stream *stream = handle_find(HANDLE_STREAM, source);
    if (!stream)
        return last_error();
    if (type != EVENT_NEW_BUFFER || !stream->event)
        return fail(GC_ERR_INVALID_PARAMETER, "the event is not registered");
    event_close(stream);
    return GC_ERR_SUCCESS;
}

GC_API GCUnregisterEvent(HANDLE source, int32_t type)
{
    enter();
    return leave(unregister_event(source, type), "GCUnregisterEvent(%p, %" PRId32 ")", source, type);
}

static int64_t deadline(uint64_t timeout_ms)
{
    enum { FOR_EVER_MS = 1000000000 }; /* eleven days */
    return timeout_ms > FOR_EVER_MS ? NEVER : now_ns() + (int64_t)timeout_ms * (NS_PER_S / 1000);
}

/* Waits for a buffer. The stream may be closed meanwhile: then only `event` is still there. */
static GC_ERROR wait_for_buffer(struct stream *stream, struct event *event, int64_t until)
{
    GC_ERROR error = GC_ERR_SUCCESS;
    event->waiting++;
    while (!event->closed && event->kills == 0 && !stream->output.first && now_ns() < until)
        condition_wait_until(&event->wake, until);
    event->waiting--;
    if (event->closed)
        error = fail(GC_ERR_ABORT, "the event was closed");
    else if (event->kills > 0) {
        event->kills--;
        error = fail(GC_ERR_ABORT, "EventKill was called");
    } else if (!stream->output.first)
        error = fail(GC_ERR_TIMEOUT, "no new buffer");
    if (event->closed && event->waiting == 0)
        event_free(event);
    return error;
}

static GC_ERROR event_data(HANDLE handle, void *data, size_t *size, uint64_t timeout_ms)
{
    struct stream *stream = handle_find(HANDLE_EVENT, handle);
    if (!stream)
        return last_error();
    if (!size)
        return fail(GC_ERR_INVALID_PARAMETER, "no size");
    if (data && *size < sizeof(EVENT_NEW_BUFFER_DATA))
        return fail(GC_ERR_BUFFER_TOO_SMALL, "%zu bytes given, %zu needed", *size, sizeof(EVENT_NEW_BUFFER_DATA));
    *size = sizeof(EVENT_NEW_BUFFER_DATA);
    if (!data)
        return GC_ERR_SUCCESS;
    GC_ERROR error = wait_for_buffer(stream, stream->event, deadline(timeout_ms));
    if (error)
        return error;
    struct buffer *buffer = queue_pop(&stream->output, ANNOUNCED);
    EVENT_NEW_BUFFER_DATA new_buffer = {.BufferHandle = buffer->handle, .pUserPointer = buffer->user};
    memcpy(data, &new_buffer, sizeof new_buffer);
    stream->delivered++;
    return GC_ERR_SUCCESS;
}

GC_API EventGetData(HANDLE event, void *data, size_t *size, uint64_t timeout_ms)
{
    enter();
    return leave(event_data(event, data, size, timeout_ms), "EventGetData(%p, %" PRIu64 ")", event, timeout_ms);
}

static GC_ERROR event_data_info(HANDLE event, const void *in, size_t in_size, INFO_CMD command, INFO_DATATYPE *type,
                                void *data, size_t *size)
{
    EVENT_NEW_BUFFER_DATA new_buffer;
    if (!handle_find(HANDLE_EVENT, event))
        return last_error();
    if (!in || in_size < sizeof new_buffer)
        return fail(GC_ERR_INVALID_PARAMETER, "not the data of a new-buffer event");
    memcpy(&new_buffer, in, sizeof new_buffer);
    if (command == EVENT_DATA_ID)
        return answer_value(INFO_DATATYPE_PTR, (uintptr_t)new_buffer.BufferHandle, type, data, size);
    if (command == EVENT_DATA_VALUE)
        return answer_value(INFO_DATATYPE_PTR, (uintptr_t)new_buffer.pUserPointer, type, data, size);
    return fail(GC_ERR_INVALID_PARAMETER, "no such event data info: %d", command);
}

GC_API EventGetDataInfo(HANDLE event, const void *in, size_t in_size, INFO_CMD command, INFO_DATATYPE *type, void *data,
                        size_t *size)
{
    enter();
    GC_ERROR error = event_data_info(event, in, in_size, command, type, data, size);
    return leave(error, "EventGetDataInfo(%p, %d)", event, command);
}

static GC_ERROR event_info(HANDLE event, INFO_CMD command, INFO_DATATYPE *type, void *data, size_t *size)
{
    struct stream *stream = handle_find(HANDLE_EVENT, event);
    if (!stream)
        return last_error();
    switch (command) {
    case EVENT_EVENT_TYPE:
        return answer_value(INFO_DATATYPE_INT32, EVENT_NEW_BUFFER, type, data, size);
    case EVENT_NUM_IN_QUEUE:
        return answer_value(INFO_DATATYPE_SIZET, stream->output.length, type, data, size);
    case EVENT_NUM_FIRED:
        return answer_value(INFO_DATATYPE_UINT64, stream->event->fired, type, data, size);
    case EVENT_SIZE_MAX:
    case EVENT_INFO_DATA_SIZE_MAX:
        return answer_value(INFO_DATATYPE_SIZET, sizeof(EVENT_NEW_BUFFER_DATA), type, data, size);
    default:
        return fail(GC_ERR_INVALID_PARAMETER, "no such event info: %d", command);
    }
}

GC_API EventGetInfo(HANDLE event, INFO_CMD command, INFO_DATATYPE *type, void *data, size_t *size)
{
    enter();
    return leave(event_info(event, command, type, data, size), "EventGetInfo(%p, %d)", event, command);
}

/* The buffers behind the events are then in nobody's queue: the program queues them again. */
GC_API EventFlush(HANDLE event)
{
    enter();
    struct stream *stream = handle_find(HANDLE_EVENT, event);
    GC_ERROR error = stream ? GC_ERR_SUCCESS : last_error();
    while (stream && queue_pop(&stream->output, ANNOUNCED))
        ;
    return leave(error, "EventFlush(%p)", event);
}

GC_API EventKill(HANDLE event)
{
    enter();
    struct stream *stream = handle_find(HANDLE_EVENT, event);
    GC_ERROR error = stream ? GC_ERR_SUCCESS : last_error();
    if (stream) {
        stream->event->kills++;
        pthread_cond_broadcast(&stream->event->wake);
    }
    return leave(error, "EventKill(%p)", event);
}
