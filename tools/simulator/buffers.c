/* What a program may ask of a stream and of the frame in a buffer. */
#define _GNU_SOURCE
#include <inttypes.h>
#include <string.h>

#include "simulator.h"

enum { BUFFERS_LEAST = 3 };

static GC_ERROR stream_info(const struct stream *stream, INFO_CMD command, INFO_DATATYPE *type, void *data,
                            size_t *size)
{
    const char *transport = stream->camera->config.gige ? "GEV" : "Custom";
    switch (command) {
    case STREAM_INFO_ID:
        return answer_text(STREAM_ID, type, data, size);
    case STREAM_INFO_TLTYPE:
        return answer_text(transport, type, data, size);
    case STREAM_INFO_NUM_DELIVERED:
        return answer_value(INFO_DATATYPE_UINT64, stream->delivered, type, data, size);
    case STREAM_INFO_NUM_UNDERRUN:
        return answer_value(INFO_DATATYPE_UINT64, stream->underrun, type, data, size);
    case STREAM_INFO_NUM_STARTED:
        return answer_value(INFO_DATATYPE_UINT64, stream->started_frames, type, data, size);
    case STREAM_INFO_NUM_ANNOUNCED:
        return answer_value(INFO_DATATYPE_SIZET, stream->announced_count, type, data, size);
    case STREAM_INFO_NUM_QUEUED:
        return answer_value(INFO_DATATYPE_SIZET, stream->input.length, type, data, size);
    case STREAM_INFO_NUM_AWAIT_DELIVERY:
        return answer_value(INFO_DATATYPE_SIZET, stream->output.length, type, data, size);
    case STREAM_INFO_PAYLOAD_SIZE:
        return answer_value(INFO_DATATYPE_SIZET, payload_bytes(stream->camera), type, data, size);
    case STREAM_INFO_IS_GRABBING:
        return answer_value(INFO_DATATYPE_BOOL8, stream->started && !stream->camera->lost, type, data, size);
    case STREAM_INFO_DEFINES_PAYLOADSIZE:
        return answer_value(INFO_DATATYPE_BOOL8, 1, type, data, size);
    case STREAM_INFO_NUM_CHUNKS_MAX:
        return answer_value(INFO_DATATYPE_SIZET, CHUNKS + 1, type, data, size);
    case STREAM_INFO_BUF_ANNOUNCE_MIN:
        return answer_value(INFO_DATATYPE_SIZET, BUFFERS_LEAST, type, data, size);
    case STREAM_INFO_BUF_ALIGNMENT:
        return answer_value(INFO_DATATYPE_SIZET, 1, type, data, size);
    default:
        return fail(GC_ERR_INVALID_PARAMETER, "no such stream info: %d", command);
    }
}

GC_API DSGetInfo(HANDLE handle, INFO_CMD command, INFO_DATATYPE *type, void *data, size_t *size)
{
    enter();
    struct stream *stream = handle_find(HANDLE_STREAM, handle);
    GC_ERROR error = stream ? stream_info(stream, command, type, data, size) : last_error();
    return leave(error, "DSGetInfo(%p, %d)", handle, command);
}

static GC_ERROR nth_buffer(HANDLE handle, uint32_t index, HANDLE *given)
{
    struct stream *stream = handle_find(HANDLE_STREAM, handle);
    if (!stream)
        return last_error();
    if (!given)
        return fail(GC_ERR_INVALID_PARAMETER, "no place for the handle");
    for (struct buffer *buffer = stream->announced; buffer; buffer = buffer->next_announced)
        if (index-- == 0) {
            *given = buffer->handle;
            return GC_ERR_SUCCESS;
        }
    return fail(GC_ERR_INVALID_INDEX, "not so many buffers are announced");
}

GC_API DSGetBufferID(HANDLE stream, uint32_t index, HANDLE *buffer)
{
    enter();
    return leave(nth_buffer(stream, index, buffer), "DSGetBufferID(%p, %" PRIu32 ")", stream, index);
}

/* What is known of any buffer; -1: it is a question about the frame in it. */
static int about_buffer(const struct buffer *buffer, INFO_CMD command, INFO_DATATYPE *kind, uint64_t *value)
{
    switch (command) {
    case BUFFER_INFO_BASE:
        *kind = INFO_DATATYPE_PTR;
        *value = (uint64_t)(uintptr_t)buffer->memory;
        return 0;
    case BUFFER_INFO_SIZE:
        *kind = INFO_DATATYPE_SIZET;
        *value = buffer->size;
        return 0;
    case BUFFER_INFO_USER_PTR:
        *kind = INFO_DATATYPE_PTR;
        *value = (uint64_t)(uintptr_t)buffer->user;
        return 0;
    case BUFFER_INFO_NEW_DATA:
        *kind = INFO_DATATYPE_BOOL8;
        *value = buffer->info.has_data && buffer->place != FILLING;
        return 0;
    case BUFFER_INFO_IS_QUEUED:
        *kind = INFO_DATATYPE_BOOL8;
        *value = buffer->place != ANNOUNCED;
        return 0;
    case BUFFER_INFO_IS_ACQUIRING:
        *kind = INFO_DATATYPE_BOOL8;
        *value = buffer->place == FILLING;
        return 0;
    default:
        return -1;
    }
}

/* What is known of the frame; false: not known, or not of a line-scan frame. */
static bool about_frame(const struct frame_info *info, INFO_CMD command, INFO_DATATYPE *kind, uint64_t *value)
{
    *kind = INFO_DATATYPE_SIZET;
    switch (command) {
    case BUFFER_INFO_TIMESTAMP:
    case BUFFER_INFO_TIMESTAMP_NS:
        *kind = INFO_DATATYPE_UINT64;
        *value = info->timestamp_ns;
        return true;
    case BUFFER_INFO_FRAMEID:
        *kind = INFO_DATATYPE_UINT64;
        *value = info->id;
        return true;
    case BUFFER_INFO_PIXELFORMAT:
        *kind = INFO_DATATYPE_UINT64;
        *value = (uint64_t)info->format.pixel_format;
        return true;
    case BUFFER_INFO_PIXELFORMAT_NAMESPACE:
        *kind = INFO_DATATYPE_UINT64;
        *value = PIXELFORMAT_NAMESPACE_PFNC_32BIT;
        return true;
    case BUFFER_INFO_PIXEL_ENDIANNESS:
        *kind = INFO_DATATYPE_INT32;
        *value = PIXELENDIANNESS_LITTLE;
        return true;
    case BUFFER_INFO_IS_INCOMPLETE:
        *kind = INFO_DATATYPE_BOOL8;
        *value = info->incomplete;
        return true;
    case BUFFER_INFO_IMAGEPRESENT:
        *kind = INFO_DATATYPE_BOOL8;
        *value = 1;
        return true;
    case BUFFER_INFO_CONTAINS_CHUNKDATA:
        *kind = INFO_DATATYPE_BOOL8;
        *value = info->has_chunks;
        return true;
    case BUFFER_INFO_DATA_LARGER_THAN_BUFFER:
        *kind = INFO_DATATYPE_BOOL8;
        *value = info->larger_than_buffer;
        return true;
    case BUFFER_INFO_SIZE_FILLED:
        *value = info->filled_bytes;
        return true;
    case BUFFER_INFO_DATA_SIZE:
        *value = info->data_bytes;
        return true;
    case BUFFER_INFO_WIDTH:
        *value = (uint64_t)info->format.width;
        return true;
    case BUFFER_INFO_HEIGHT:
        *value = (uint64_t)info->format.height;
        return true;
    case BUFFER_INFO_DELIVERED_IMAGEHEIGHT:
        *value = (uint64_t)info->delivered_lines;
        return true;
    case BUFFER_INFO_XOFFSET:
        *value = (uint64_t)info->format.offset_x;
        return true;
    case BUFFER_INFO_YOFFSET:
    case BUFFER_INFO_XPADDING:
    case BUFFER_INFO_YPADDING:
        *value = 0;
        return true;
    case BUFFER_INFO_IMAGEOFFSET:
        *value = info->image_offset;
        return true;
    case BUFFER_INFO_PAYLOADTYPE:
        *value = (uint64_t)info->payload_type;
        return true;
    case BUFFER_INFO_DELIVERED_CHUNKPAYLOADSIZE:
        *value = info->filled_bytes;
        return info->has_chunks;
    default: /* no chunk layout id, no file name */
        return false;
    }
}

static GC_ERROR buffer_info(HANDLE stream, HANDLE handle, INFO_CMD command, INFO_DATATYPE *type, void *data,
                            size_t *size)
{
    struct buffer *buffer = stream_buffer(handle_find(HANDLE_STREAM, stream), handle);
    INFO_DATATYPE kind = INFO_DATATYPE_SIZET;
    uint64_t value = 0;
    if (!buffer)
        return last_error();
    if (command == BUFFER_INFO_TLTYPE)
        return stream_info(buffer->stream, STREAM_INFO_TLTYPE, type, data, size);
    if (command < 0 || command > BUFFER_INFO_CONTAINS_CHUNKDATA)
        return fail(GC_ERR_INVALID_PARAMETER, "no such buffer info: %d", command);
    if (about_buffer(buffer, command, &kind, &value) == 0)
        return answer_value(kind, value, type, data, size);
    if (!buffer->info.has_data || buffer->place == FILLING)
        return fail(GC_ERR_NO_DATA, "no frame is in the buffer");
    if (!about_frame(&buffer->info, command, &kind, &value))
        return fail(GC_ERR_NOT_AVAILABLE, "not known of this frame: %d", command);
    return answer_value(kind, value, type, data, size);
}

GC_API DSGetBufferInfo(HANDLE stream, HANDLE buffer, INFO_CMD command, INFO_DATATYPE *type, void *data, size_t *size)
{
    enter();
    GC_ERROR error = buffer_info(stream, buffer, command, type, data, size);
    return leave(error, "DSGetBufferInfo(%p, %p, %d)", stream, buffer, command);
}

static GC_ERROR chunk_data(HANDLE stream, HANDLE handle, SINGLE_CHUNK_DATA *chunks, size_t *count)
{
    struct buffer *buffer = stream_buffer(handle_find(HANDLE_STREAM, stream), handle);
    if (!buffer)
        return last_error();
    if (!count)
        return fail(GC_ERR_INVALID_PARAMETER, "no count");
    if (!buffer->info.has_data || buffer->place == FILLING)
        return fail(GC_ERR_NO_DATA, "no frame is in the buffer");
    size_t given = *count;
    *count = buffer->info.chunk_count;
    if (!chunks)
        return GC_ERR_SUCCESS;
    if (given < *count)
        return fail(GC_ERR_BUFFER_TOO_SMALL, "room for %zu chunks, %zu are there", given, *count);
    memcpy(chunks, buffer->info.chunks, *count * sizeof *chunks);
    return GC_ERR_SUCCESS;
}

GC_API DSGetBufferChunkData(HANDLE stream, HANDLE buffer, SINGLE_CHUNK_DATA *chunks, size_t *count)
{
    enter();
    return leave(chunk_data(stream, buffer, chunks, count), "DSGetBufferChunkData(%p, %p)", stream, buffer);
}

GC_API DSGetParentDev(HANDLE handle, HANDLE *device)
{
    enter();
    struct stream *stream = handle_find(HANDLE_STREAM, handle);
    GC_ERROR error = stream ? GIVE(device, stream->camera->device) : last_error();
    return leave(error, "DSGetParentDev(%p)", handle);
}

/* Payloads of parts are not simulated: a frame has none. */
GC_API DSGetNumBufferParts(HANDLE stream, HANDLE buffer, uint32_t *count)
{
    enter();
    GC_ERROR error = stream_buffer(handle_find(HANDLE_STREAM, stream), buffer) ? GIVE(count, 0) : last_error();
    return leave(error, "DSGetNumBufferParts(%p, %p)", stream, buffer);
}

GC_API DSGetBufferPartInfo(HANDLE stream, HANDLE buffer, uint32_t part, INFO_CMD command, INFO_DATATYPE *type,
                           void *data, size_t *size)
{
    (void)type, (void)data, (void)size;
    enter();
    GC_ERROR error = stream_buffer(handle_find(HANDLE_STREAM, stream), buffer)
                         ? fail(GC_ERR_INVALID_INDEX, "a frame has no parts")
                         : last_error();
    return leave(error, "DSGetBufferPartInfo(%p, %p, %" PRIu32 ", %d)", stream, buffer, part, command);
}

/* GenTL 1.6 is not spoken, but some programs complain on the console where its entry points are missing. */
static GC_ERROR newer(const char *name)
{
    enter();
    return leave(fail(GC_ERR_NOT_IMPLEMENTED, "%s belongs to GenTL 1.6", name), "%s()", name);
}

GC_API DSAnnounceCompositeBuffer(HANDLE stream, size_t segments, void **memory, size_t *sizes, void *user,
                                 HANDLE *buffer)
{
    (void)stream, (void)segments, (void)memory, (void)sizes, (void)user, (void)buffer;
    return newer(__func__);
}

GC_API DSGetNumFlows(HANDLE stream, uint32_t *count)
{
    (void)stream, (void)count;
    return newer(__func__);
}

GC_API DSGetFlowInfo(HANDLE stream, uint32_t flow, INFO_CMD command, INFO_DATATYPE *type, void *data, size_t *size)
{
    (void)stream, (void)flow, (void)command, (void)type, (void)data, (void)size;
    return newer(__func__);
}

GC_API DSGetNumBufferSegments(HANDLE stream, HANDLE buffer, uint32_t *count)
{
    (void)stream, (void)buffer, (void)count;
    return newer(__func__);
}

GC_API DSGetBufferSegmentInfo(HANDLE stream, HANDLE buffer, uint32_t segment, INFO_CMD command, INFO_DATATYPE *type,
                              void *data, size_t *size)
{
    (void)stream, (void)buffer, (void)segment, (void)command, (void)type, (void)data, (void)size;
    return newer(__func__);
}
