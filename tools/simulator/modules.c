/* System, interface and device: the GenTL modules above the data stream. */
#define _GNU_SOURCE
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "simulator.h"

static const char *transport_of(const struct camera *camera)
{
    return camera->config.gige ? "GEV" : "Custom";
}

/* ---- system -------------------------------------------------------------------------------------------------- */

static GC_ERROR system_open(HANDLE *system)
{
    if (!library.ready)
        return fail(GC_ERR_NOT_INITIALIZED, "GCInitLib was not called");
    if (!system)
        return fail(GC_ERR_INVALID_PARAMETER, "no place for the handle");
    if (*library.bad_config)
        return fail(GC_ERR_INVALID_VALUE, "%s", library.bad_config);
    if (library.system)
        return fail(GC_ERR_RESOURCE_IN_USE, "the system is open");
    library.system = handle_new(HANDLE_SYSTEM, &library);
    *system = library.system;
    return library.system ? GC_ERR_SUCCESS : last_error();
}

GC_API TLOpen(HANDLE *system)
{
    enter();
    GC_ERROR error = system_open(system);
    return leave(error, "TLOpen() -> %p", error ? NULL : *system);
}

static void close_interface(void)
{
    for (int i = 0; i < CAMERA_COUNT; i++)
        camera_close(&library.cameras[i]);
    handle_free(library.interface);
    library.interface = NULL;
}

static GC_ERROR system_close(HANDLE system)
{
    if (!handle_find(HANDLE_SYSTEM, system))
        return last_error();
    close_interface();
    handle_free(system);
    library.system = NULL;
    return GC_ERR_SUCCESS;
}

GC_API TLClose(HANDLE system)
{
    enter();
    return leave(system_close(system), "TLClose(%p)", system);
}

GC_API TLGetNumInterfaces(HANDLE system, uint32_t *count)
{
    enter();
    GC_ERROR error = handle_find(HANDLE_SYSTEM, system) ? GIVE(count, 1) : last_error();
    return leave(error, "TLGetNumInterfaces(%p)", system);
}

static GC_ERROR interface_id(HANDLE system, uint32_t index, char *id, size_t *size)
{
    if (!handle_find(HANDLE_SYSTEM, system))
        return last_error();
    if (index > 0)
        return fail(GC_ERR_INVALID_INDEX, "there is one interface, not %" PRIu32, index + 1);
    return answer_id(INTERFACE_ID, id, size);
}

GC_API TLGetInterfaceID(HANDLE system, uint32_t index, char *id, size_t *size)
{
    enter();
    return leave(interface_id(system, index, id, size), "TLGetInterfaceID(%p, %" PRIu32 ")", system, index);
}

static GC_ERROR interface_info(INFO_CMD command, INFO_DATATYPE *type, void *buffer, size_t *size)
{
    switch (command) {
    case INTERFACE_INFO_ID:
        return answer_text(INTERFACE_ID, type, buffer, size);
    case INTERFACE_INFO_DISPLAYNAME:
        return answer_text("Simulated web", type, buffer, size);
    case INTERFACE_INFO_TLTYPE:
        return answer_text("Custom", type, buffer, size);
    default:
        return fail(GC_ERR_INVALID_PARAMETER, "no such info: %d", command);
    }
}

static bool is_interface(const char *id)
{
    if (id && strcmp(id, INTERFACE_ID) == 0)
        return true;
    fail(GC_ERR_INVALID_ID, "no interface %s", id ? id : "NULL");
    return false;
}

GC_API TLGetInterfaceInfo(HANDLE system, const char *id, INFO_CMD command, INFO_DATATYPE *type, void *buffer,
                          size_t *size)
{
    enter();
    GC_ERROR error = handle_find(HANDLE_SYSTEM, system) && is_interface(id)
                         ? interface_info(command, type, buffer, size)
                         : last_error();
    return leave(error, "TLGetInterfaceInfo(%p, %s, %d)", system, id ? id : "NULL", command);
}

static GC_ERROR open_interface(HANDLE system, const char *id, HANDLE *interface)
{
    if (!handle_find(HANDLE_SYSTEM, system) || (interface && !is_interface(id)))
        return last_error();
    if (!interface)
        return fail(GC_ERR_INVALID_PARAMETER, "no place for the handle");
    if (library.interface)
        return fail(GC_ERR_RESOURCE_IN_USE, "the interface is open");
    library.interface = handle_new(HANDLE_INTERFACE, &library);
    *interface = library.interface;
    return library.interface ? GC_ERR_SUCCESS : last_error();
}

GC_API TLOpenInterface(HANDLE system, const char *id, HANDLE *interface)
{
    enter();
    GC_ERROR error = open_interface(system, id, interface);
    return leave(error, "TLOpenInterface(%p, %s) -> %p", system, id ? id : "NULL", error ? NULL : *interface);
}

GC_API TLUpdateInterfaceList(HANDLE system, bool8_t *changed, uint64_t timeout_ms)
{
    enter();
    GC_ERROR error = handle_find(HANDLE_SYSTEM, system) ? GC_ERR_SUCCESS : last_error();
    if (!error && changed)
        *changed = 0;
    return leave(error, "TLUpdateInterfaceList(%p, %" PRIu64 ")", system, timeout_ms);
}

/* ---- interface ----------------------------------------------------------------------------------------------- */

static GC_ERROR interface_close(HANDLE interface)
{
    if (!handle_find(HANDLE_INTERFACE, interface))
        return last_error();
    close_interface();
    return GC_ERR_SUCCESS;
}

GC_API IFClose(HANDLE interface)
{
    enter();
    return leave(interface_close(interface), "IFClose(%p)", interface);
}

GC_API IFGetInfo(HANDLE interface, INFO_CMD command, INFO_DATATYPE *type, void *buffer, size_t *size)
{
    enter();
    GC_ERROR error =
        handle_find(HANDLE_INTERFACE, interface) ? interface_info(command, type, buffer, size) : last_error();
    return leave(error, "IFGetInfo(%p, %d)", interface, command);
}

static GC_ERROR update_devices(HANDLE interface, bool8_t *changed)
{
    if (!handle_find(HANDLE_INTERFACE, interface))
        return last_error();
    bool8_t any = 0;
    for (int i = 0; i < CAMERA_COUNT; i++) {
        bool plugged = !control_unplugged(&library.cameras[i]);
        any |= plugged != library.listed[i];
        library.listed[i] = plugged;
    }
    if (changed)
        *changed = any;
    return GC_ERR_SUCCESS;
}

GC_API IFUpdateDeviceList(HANDLE interface, bool8_t *changed, uint64_t timeout_ms)
{
    enter();
    return leave(update_devices(interface, changed), "IFUpdateDeviceList(%p, %" PRIu64 ")", interface, timeout_ms);
}

/* The index-th of the cameras that the last update found; NULL: there are fewer. */
static struct camera *listed_camera(uint32_t index)
{
    for (int i = 0; i < CAMERA_COUNT; i++)
        if (library.listed[i] && index-- == 0)
            return &library.cameras[i];
    fail(GC_ERR_INVALID_INDEX, "there are not so many devices");
    return NULL;
}

static uint32_t listed_count(void)
{
    uint32_t count = 0;
    for (int i = 0; i < CAMERA_COUNT; i++)
        count += library.listed[i];
    return count;
}

GC_API IFGetNumDevices(HANDLE interface, uint32_t *count)
{
    enter();
    GC_ERROR error = handle_find(HANDLE_INTERFACE, interface) ? GIVE(count, listed_count()) : last_error();
    return leave(error, "IFGetNumDevices(%p) -> %" PRIu32, interface, error ? 0 : *count);
}

GC_API IFGetDeviceID(HANDLE interface, uint32_t index, char *id, size_t *size)
{
    enter();
    struct camera *camera = handle_find(HANDLE_INTERFACE, interface) ? listed_camera(index) : NULL;
    GC_ERROR error = camera ? answer_id(camera->serial, id, size) : last_error();
    return leave(error, "IFGetDeviceID(%p, %" PRIu32 ")", interface, index);
}

static struct camera *camera_named(const char *id)
{
    for (int i = 0; id && i < CAMERA_COUNT; i++)
        if (library.listed[i] && strcmp(library.cameras[i].serial, id) == 0)
            return &library.cameras[i];
    fail(GC_ERR_INVALID_ID, "no device %s", id ? id : "NULL");
    return NULL;
}

static int32_t access_status(const struct camera *camera)
{
    if (camera->device)
        return camera->access == DEVICE_ACCESS_READONLY ? DEVICE_ACCESS_STATUS_OPEN_READONLY
                                                        : DEVICE_ACCESS_STATUS_OPEN_READWRITE;
    return control_unplugged(camera) || control_taken(camera) ? DEVICE_ACCESS_STATUS_NOACCESS
                                                              : DEVICE_ACCESS_STATUS_READWRITE;
}

static GC_ERROR device_info(const struct camera *camera, INFO_CMD command, INFO_DATATYPE *type, void *buffer,
                            size_t *size)
{
    char text[128];
    switch (command) {
    case DEVICE_INFO_ID:
    case DEVICE_INFO_SERIAL_NUMBER:
        return answer_text(camera->serial, type, buffer, size);
    case DEVICE_INFO_VENDOR:
        return answer_text(VENDOR, type, buffer, size);
    case DEVICE_INFO_MODEL:
        return answer_text(MODEL, type, buffer, size);
    case DEVICE_INFO_TLTYPE:
        return answer_text(transport_of(camera), type, buffer, size);
    case DEVICE_INFO_DISPLAYNAME:
        snprintf(text, sizeof text, MODEL " (%s)", camera->serial);
        return answer_text(text, type, buffer, size);
    case DEVICE_INFO_ACCESS_STATUS:
        return answer_value(INFO_DATATYPE_INT32, (uint64_t)access_status(camera), type, buffer, size);
    case DEVICE_INFO_USER_DEFINED_NAME:
        return answer_text(camera->device ? camera->user_id : camera->config.user_id, type, buffer, size);
    case DEVICE_INFO_VERSION:
        return answer_text(VERSION, type, buffer, size);
    case DEVICE_INFO_TIMESTAMP_FREQUENCY:
        return answer_value(INFO_DATATYPE_UINT64, (uint64_t)NS_PER_S, type, buffer, size);
    default:
        return fail(GC_ERR_INVALID_PARAMETER, "no such info: %d", command);
    }
}

GC_API IFGetDeviceInfo(HANDLE interface, const char *id, INFO_CMD command, INFO_DATATYPE *type, void *buffer,
                       size_t *size)
{
    enter();
    struct camera *camera = handle_find(HANDLE_INTERFACE, interface) ? camera_named(id) : NULL;
    GC_ERROR error = camera ? device_info(camera, command, type, buffer, size) : last_error();
    return leave(error, "IFGetDeviceInfo(%p, %s, %d)", interface, id ? id : "NULL", command);
}

static GC_ERROR open_device(HANDLE interface, const char *id, int32_t access, HANDLE *device)
{
    struct camera *camera = handle_find(HANDLE_INTERFACE, interface) ? camera_named(id) : NULL;
    if (!camera)
        return last_error();
    if (!device || access < DEVICE_ACCESS_READONLY || access > DEVICE_ACCESS_EXCLUSIVE)
        return fail(GC_ERR_INVALID_PARAMETER, "no place for the handle, or access %" PRId32, access);
    if (camera->device)
        return fail(GC_ERR_RESOURCE_IN_USE, "%s is open", camera->serial);
    if (control_unplugged(camera))
        return fail(GC_ERR_INVALID_ID, "%s is unplugged", camera->serial);
    GC_ERROR error = camera_open(camera, access);
    if (!error)
        *device = camera->device;
    return error;
}

GC_API IFOpenDevice(HANDLE interface, const char *id, int32_t access, HANDLE *device)
{
    enter();
    GC_ERROR error = open_device(interface, id, access, device);
    return leave(error, "IFOpenDevice(%p, %s, %" PRId32 ") -> %p", interface, id ? id : "NULL", access,
                 error ? NULL : *device);
}

GC_API IFGetParentTL(HANDLE interface, HANDLE *system)
{
    enter();
    GC_ERROR error = handle_find(HANDLE_INTERFACE, interface) ? GIVE(system, library.system) : last_error();
    return leave(error, "IFGetParentTL(%p)", interface);
}

/* ---- device -------------------------------------------------------------------------------------------------- */

static GC_ERROR device_close(HANDLE device)
{
    struct camera *camera = handle_find(HANDLE_DEVICE, device);
    if (!camera)
        return last_error();
    camera_close(camera);
    return GC_ERR_SUCCESS;
}

GC_API DevClose(HANDLE device)
{
    enter();
    return leave(device_close(device), "DevClose(%p)", device);
}

GC_API DevGetInfo(HANDLE device, INFO_CMD command, INFO_DATATYPE *type, void *buffer, size_t *size)
{
    enter();
    struct camera *camera = handle_find(HANDLE_DEVICE, device);
    GC_ERROR error = camera ? device_info(camera, command, type, buffer, size) : last_error();
    return leave(error, "DevGetInfo(%p, %d)", device, command);
}

GC_API DevGetPort(HANDLE device, HANDLE *port)
{
    enter();
    struct camera *camera = handle_find(HANDLE_DEVICE, device);
    GC_ERROR error = camera ? GIVE(port, camera->remote) : last_error();
    return leave(error, "DevGetPort(%p)", device);
}

GC_API DevGetNumDataStreams(HANDLE device, uint32_t *count)
{
    enter();
    GC_ERROR error = handle_find(HANDLE_DEVICE, device) ? GIVE(count, 1) : last_error();
    return leave(error, "DevGetNumDataStreams(%p)", device);
}

GC_API DevGetDataStreamID(HANDLE device, uint32_t index, char *id, size_t *size)
{
    enter();
    GC_ERROR error = GC_ERR_SUCCESS;
    if (!handle_find(HANDLE_DEVICE, device))
        error = last_error();
    else
        error = index ? fail(GC_ERR_INVALID_INDEX, "there is one stream") : answer_id(STREAM_ID, id, size);
    return leave(error, "DevGetDataStreamID(%p, %" PRIu32 ")", device, index);
}

static GC_ERROR open_stream(HANDLE device, const char *id, HANDLE *stream)
{
    struct camera *camera = handle_find(HANDLE_DEVICE, device);
    if (!camera)
        return last_error();
    if (!id || strcmp(id, STREAM_ID) != 0)
        return fail(GC_ERR_INVALID_ID, "no stream %s", id ? id : "NULL");
    if (!stream)
        return fail(GC_ERR_INVALID_PARAMETER, "no place for the handle");
    if (camera_is_lost(camera))
        return fail(GC_ERR_NOT_AVAILABLE, "%s was unplugged", camera->serial);
    return stream_open(camera, stream);
}

GC_API DevOpenDataStream(HANDLE device, const char *id, HANDLE *stream)
{
    enter();
    GC_ERROR error = open_stream(device, id, stream);
    return leave(error, "DevOpenDataStream(%p, %s) -> %p", device, id ? id : "NULL", error ? NULL : *stream);
}

GC_API DevGetParentIF(HANDLE device, HANDLE *interface)
{
    enter();
    GC_ERROR error = handle_find(HANDLE_DEVICE, device) ? GIVE(interface, library.interface) : last_error();
    return leave(error, "DevGetParentIF(%p)", device);
}
