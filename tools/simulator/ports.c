/* Ports: the registers of the remote device, and what every module says of itself as a port. */
#define _GNU_SOURCE
#include <inttypes.h>
#include <stdio.h>

#include "simulator.h"

/* Only the remote device has registers. The other modules are ports too, but without description and registers. */
static struct camera *remote_camera(HANDLE port)
{
    enum handle_kind kind = handle_kind_of(port);
    if (library.ready && kind && kind != HANDLE_REMOTE && kind != HANDLE_EVENT) {
        fail(GC_ERR_NOT_AVAILABLE, "this module has no registers");
        return NULL;
    }
    struct camera *camera = handle_find(HANDLE_REMOTE, port);
    if (camera && camera_is_lost(camera)) {
        fail(GC_ERR_IO, "%s was unplugged", camera->serial);
        return NULL;
    }
    return camera;
}

static GC_ERROR read_port(HANDLE port, uint64_t address, void *buffer, const size_t *size)
{
    struct camera *camera = remote_camera(port);
    if (!camera)
        return last_error();
    if (!buffer || !size)
        return fail(GC_ERR_INVALID_PARAMETER, "no buffer, or no size");
    return features_read(camera, address, buffer, *size);
}

static GC_ERROR write_port(HANDLE port, uint64_t address, const void *buffer, const size_t *size)
{
    struct camera *camera = remote_camera(port);
    if (!camera)
        return last_error();
    if (!buffer || !size)
        return fail(GC_ERR_INVALID_PARAMETER, "no buffer, or no size");
    if (camera->access == DEVICE_ACCESS_READONLY)
        return fail(GC_ERR_ACCESS_DENIED, "%s was opened for reading", camera->serial);
    return features_write(camera, address, buffer, *size);
}

GC_API GCReadPort(HANDLE port, uint64_t address, void *buffer, size_t *size)
{
    enter();
    GC_ERROR error = read_port(port, address, buffer, size);
    return leave(error, "GCReadPort(%p, 0x%" PRIx64 ", %zu)", port, address, size ? *size : 0);
}

GC_API GCWritePort(HANDLE port, uint64_t address, const void *buffer, size_t *size)
{
    enter();
    GC_ERROR error = write_port(port, address, buffer, size);
    return leave(error, "GCWritePort(%p, 0x%" PRIx64 ", %zu)", port, address, size ? *size : 0);
}

/* Stops at the first entry that fails and says how many were done. */
static GC_ERROR stacked(HANDLE port, PORT_REGISTER_STACK_ENTRY *entries, size_t *count, bool write)
{
    if (!remote_camera(port))
        return last_error();
    if (!entries || !count)
        return fail(GC_ERR_INVALID_PARAMETER, "no entries");
    for (size_t i = 0; i < *count; i++) {
        PORT_REGISTER_STACK_ENTRY entry = entries[i];
        GC_ERROR error = write ? write_port(port, entry.Address, entry.pBuffer, &entry.Size)
                               : read_port(port, entry.Address, entry.pBuffer, &entry.Size);
        if (error) {
            *count = i;
            return error;
        }
    }
    return GC_ERR_SUCCESS;
}

GC_API GCReadPortStacked(HANDLE port, PORT_REGISTER_STACK_ENTRY *entries, size_t *count)
{
    enter();
    return leave(stacked(port, entries, count, false), "GCReadPortStacked(%p)", port);
}

GC_API GCWritePortStacked(HANDLE port, PORT_REGISTER_STACK_ENTRY *entries, size_t *count)
{
    enter();
    return leave(stacked(port, entries, count, true), "GCWritePortStacked(%p)", port);
}

static GC_ERROR url_info(HANDLE port, uint32_t index, INFO_CMD command, INFO_DATATYPE *type, void *buffer, size_t *size)
{
    char url[128];
    if (!remote_camera(port))
        return last_error();
    if (index > 0)
        return fail(GC_ERR_INVALID_INDEX, "there is one description");
    switch (command) {
    case URL_INFO_URL:
        snprintf(url, sizeof url, "Local:%s;%" PRIx64 ";%zx", XML_NAME, XML_ADDRESS, library.xml_size);
        return answer_text(url, type, buffer, size);
    case URL_INFO_SCHEMA_VER_MAJOR:
    case URL_INFO_SCHEMA_VER_MINOR:
    case URL_INFO_FILE_VER_MAJOR:
        return answer_value(INFO_DATATYPE_INT32, 1, type, buffer, size);
    case URL_INFO_FILE_VER_MINOR:
    case URL_INFO_FILE_VER_SUBMINOR:
    case URL_INFO_SCHEME: /* local */
        return answer_value(INFO_DATATYPE_INT32, 0, type, buffer, size);
    case URL_INFO_FILE_REGISTER_ADDRESS:
        return answer_value(INFO_DATATYPE_UINT64, XML_ADDRESS, type, buffer, size);
    case URL_INFO_FILE_SIZE:
        return answer_value(INFO_DATATYPE_UINT64, library.xml_size, type, buffer, size);
    case URL_INFO_FILENAME:
        return answer_text(XML_NAME, type, buffer, size);
    case URL_INFO_FILE_SHA1_HASH:
        return fail(GC_ERR_NOT_AVAILABLE, "no hash");
    default:
        return fail(GC_ERR_INVALID_PARAMETER, "no such info: %d", command);
    }
}

GC_API GCGetPortURLInfo(HANDLE port, uint32_t index, INFO_CMD command, INFO_DATATYPE *type, void *buffer, size_t *size)
{
    enter();
    GC_ERROR error = url_info(port, index, command, type, buffer, size);
    return leave(error, "GCGetPortURLInfo(%p, %" PRIu32 ", %d)", port, index, command);
}

GC_API GCGetPortURL(HANDLE port, char *url, size_t *size)
{
    enter();
    return leave(url_info(port, 0, URL_INFO_URL, NULL, url, size), "GCGetPortURL(%p)", port);
}

GC_API GCGetNumPortURLs(HANDLE port, uint32_t *count)
{
    enter();
    GC_ERROR error = remote_camera(port) ? GIVE(count, 1) : last_error();
    return leave(error, "GCGetNumPortURLs(%p)", port);
}

static const char *module_of(enum handle_kind kind)
{
    static const char *const names[] = {"", "TLSystem", "TLInterface", "TLDevice", "Device", "TLDataStream", "Buffer"};
    return names[kind];
}

/* The object's id; NULL: `port` is not a port. */
static const char *port_id(HANDLE port, enum handle_kind kind, char text[32])
{
    struct camera *camera;
    switch (kind) {
    case HANDLE_SYSTEM:
        return SYSTEM_ID;
    case HANDLE_INTERFACE:
        return INTERFACE_ID;
    case HANDLE_DEVICE:
    case HANDLE_REMOTE:
        camera = handle_find(kind, port);
        return camera->serial;
    case HANDLE_STREAM:
        return STREAM_ID;
    case HANDLE_BUFFER:
        snprintf(text, 32, "%" PRIxPTR, (uintptr_t)port);
        return text;
    default:
        return NULL;
    }
}

static GC_ERROR port_info(HANDLE port, INFO_CMD command, INFO_DATATYPE *type, void *buffer, size_t *size)
{
    char text[32];
    enum handle_kind kind = library.ready ? handle_kind_of(port) : 0;
    const char *id = port_id(port, kind, text);
    bool registers = kind == HANDLE_REMOTE;
    if (!id)
        return handle_find(HANDLE_REMOTE, port) ? GC_ERR_SUCCESS : last_error();
    switch (command) {
    case PORT_INFO_ID:
        return answer_text(id, type, buffer, size);
    case PORT_INFO_VENDOR:
        return answer_text(VENDOR, type, buffer, size);
    case PORT_INFO_MODEL:
        return answer_text(MODEL, type, buffer, size);
    case PORT_INFO_TLTYPE:
        return answer_text("Custom", type, buffer, size);
    case PORT_INFO_MODULE:
        return answer_text(module_of(kind), type, buffer, size);
    case PORT_INFO_PORTNAME:
        return answer_text(registers ? "Device" : module_of(kind), type, buffer, size);
    case PORT_INFO_VERSION:
        return answer_text(VERSION, type, buffer, size);
    case PORT_INFO_LITTLE_ENDIAN:
        return answer_value(INFO_DATATYPE_BOOL8, 1, type, buffer, size);
    case PORT_INFO_BIG_ENDIAN:
    case PORT_INFO_ACCESS_NA:
        return answer_value(INFO_DATATYPE_BOOL8, 0, type, buffer, size);
    case PORT_INFO_ACCESS_READ:
    case PORT_INFO_ACCESS_WRITE:
        return answer_value(INFO_DATATYPE_BOOL8, registers, type, buffer, size);
    case PORT_INFO_ACCESS_NI:
        return answer_value(INFO_DATATYPE_BOOL8, !registers, type, buffer, size);
    default:
        return fail(GC_ERR_INVALID_PARAMETER, "no such info: %d", command);
    }
}

GC_API GCGetPortInfo(HANDLE port, INFO_CMD command, INFO_DATATYPE *type, void *buffer, size_t *size)
{
    enter();
    return leave(port_info(port, command, type, buffer, size), "GCGetPortInfo(%p, %d)", port, command);
}
