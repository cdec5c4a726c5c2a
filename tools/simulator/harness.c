/* Loads a producer and calls every entry point: with NULL, foreign, stale and right handles, with no room and enough,
 * in odd orders and from two threads. Made to run under the sanitizers.
 *   harness PRODUCER.cti        0: all as expected */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "gentl.h"

#define EXPORTS(X)                                                                                                     \
    X(GCInitLib) X(GCCloseLib) X(GCGetInfo) X(GCGetLastError) X(GCReadPort) X(GCWritePort) X(GCReadPortStacked)        \
    X(GCWritePortStacked) X(GCGetPortURL) X(GCGetNumPortURLs) X(GCGetPortURLInfo) X(GCGetPortInfo) X(GCRegisterEvent)  \
    X(GCUnregisterEvent) X(EventGetData) X(EventGetDataInfo) X(EventGetInfo) X(EventFlush) X(EventKill) X(TLOpen)      \
    X(TLClose) X(TLGetInfo) X(TLGetNumInterfaces) X(TLGetInterfaceID) X(TLGetInterfaceInfo) X(TLOpenInterface)         \
    X(TLUpdateInterfaceList) X(IFClose) X(IFGetInfo) X(IFGetNumDevices) X(IFGetDeviceID) X(IFUpdateDeviceList)         \
    X(IFGetDeviceInfo) X(IFOpenDevice) X(IFGetParentTL) X(DevClose) X(DevGetInfo) X(DevGetPort)                        \
    X(DevGetNumDataStreams) X(DevGetDataStreamID) X(DevOpenDataStream) X(DevGetParentIF) X(DSClose) X(DSGetInfo)       \
    X(DSAnnounceBuffer) X(DSAllocAndAnnounceBuffer) X(DSRevokeBuffer) X(DSQueueBuffer) X(DSFlushQueue)                 \
    X(DSStartAcquisition) X(DSStopAcquisition) X(DSGetBufferID) X(DSGetBufferInfo) X(DSGetBufferChunkData)             \
    X(DSGetParentDev) X(DSGetNumBufferParts) X(DSGetBufferPartInfo) X(DSAnnounceCompositeBuffer) X(DSGetNumFlows)      \
    X(DSGetFlowInfo) X(DSGetNumBufferSegments) X(DSGetBufferSegmentInfo)

static struct {
#define POINTER(name) __typeof__(name) *name;
    EXPORTS(POINTER)
} gc;

static int failures;

static void expect_(bool as_expected, const char *what, int line)
{
    if (as_expected)
        return;
    char text[512] = "";
    size_t size = sizeof text;
    GC_ERROR code = 0;
    gc.GCGetLastError(&code, text, &size);
    fprintf(stderr, "harness.c:%d: %s (last error %d: %s)\n", line, what, code, text);
    failures++;
}
#define expect(condition) expect_((condition), #condition, __LINE__)

static void load(const char *path)
{
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!library) {
        fprintf(stderr, "%s\n", dlerror());
        exit(69);
    }
#define FIND(name)                                                                                                     \
    gc.name = (__typeof__(name) *)(uintptr_t)dlsym(library, #name);                                                    \
    expect(gc.name != NULL);
    EXPORTS(FIND)
    if (failures)
        exit(1);
}

/* ---- the open modules ---------------------------------------------------------------------------------------- */

enum { WIDTH = 256, HEIGHT = 16, BUFFERS = 4 };

static HANDLE tl, interface, device, remote, stream, event, buffers[BUFFERS];

static void open_device(void)
{
    uint32_t count = 0;
    expect(gc.TLOpen(&tl) == 0);
    expect(gc.TLOpen(&tl) == GC_ERR_RESOURCE_IN_USE);
    expect(gc.TLUpdateInterfaceList(tl, NULL, 100) == 0);
    expect(gc.TLOpenInterface(tl, "SIMULATOR", &interface) == 0);
    expect(gc.IFUpdateDeviceList(interface, NULL, 100) == 0);
    expect(gc.IFGetNumDevices(interface, &count) == 0 && count == 2);
    expect(gc.IFOpenDevice(interface, "SIM0001", DEVICE_ACCESS_EXCLUSIVE, &device) == 0);
    expect(gc.IFOpenDevice(interface, "SIM0001", DEVICE_ACCESS_EXCLUSIVE, &device) == GC_ERR_RESOURCE_IN_USE);
    expect(gc.DevGetPort(device, &remote) == 0);
    expect(gc.DevOpenDataStream(device, "Stream0", &stream) == 0);
    expect(gc.GCRegisterEvent(stream, EVENT_NEW_BUFFER, &event) == 0);
}

/* ---- registers, found by name in the description --------------------------------------------------------------- */

static char *description;
static size_t description_size;

static void read_description(void)
{
    char url[256] = "";
    size_t size = sizeof url;
    unsigned long long address = 0, length = 0;
    expect(gc.GCGetPortURL(remote, url, &size) == 0);
    expect(sscanf(url, "Local:%*[^;];%llx;%llx", &address, &length) == 2);
    description_size = (size_t)length;
    description = calloc(1, description_size + 1);
    expect(gc.GCReadPort(remote, address, description, &description_size) == 0);
    expect(strstr(description, "</RegisterDescription>") != NULL);
    size = description_size + 1;
    expect(gc.GCReadPort(remote, address, description, &size) == GC_ERR_INVALID_ADDRESS);
}

static uint64_t address_of(const char *feature)
{
    char name[96];
    snprintf(name, sizeof name, "Name=\"%sReg\"><Address>", feature);
    const char *found = strstr(description, name);
    expect(found != NULL);
    return found ? strtoull(found + strlen(name), NULL, 16) : 0;
}

static GC_ERROR set(const char *feature, int64_t value)
{
    size_t size = sizeof value;
    return gc.GCWritePort(remote, address_of(feature), &value, &size);
}

static GC_ERROR set_real(const char *feature, double value)
{
    size_t size = sizeof value;
    return gc.GCWritePort(remote, address_of(feature), &value, &size);
}

static int64_t get(const char *feature)
{
    int64_t value = 0;
    size_t size = sizeof value;
    expect(gc.GCReadPort(remote, address_of(feature), &value, &size) == 0);
    return value;
}

/* ---- wrong handles ------------------------------------------------------------------------------------------- */

/* Every entry point on a handle that is none of the right kind: an error, and nothing else happens. */
static void call_all_with(HANDLE bad)
{
    char text[64];
    size_t size = sizeof text;
    uint32_t count;
    INFO_DATATYPE type;
    HANDLE out;
    void *memory;
    PORT_REGISTER_STACK_ENTRY entry = {.Address = 0x1000, .pBuffer = text, .Size = 8};
    SINGLE_CHUNK_DATA chunk;
    size_t one = 1;
#define REFUSED(call) expect((call) < 0)
    REFUSED(gc.GCReadPort(bad, 0x1000, text, &size));
    REFUSED(gc.GCWritePort(bad, 0x1000, text, &size));
    REFUSED(gc.GCReadPortStacked(bad, &entry, &one));
    REFUSED(gc.GCWritePortStacked(bad, &entry, &one));
    REFUSED(gc.GCGetPortURL(bad, text, &size));
    REFUSED(gc.GCGetNumPortURLs(bad, &count));
    REFUSED(gc.GCGetPortURLInfo(bad, 0, URL_INFO_URL, &type, text, &size));
    REFUSED(gc.GCGetPortInfo(bad, PORT_INFO_ID, &type, text, &size));
    REFUSED(gc.GCRegisterEvent(bad, EVENT_NEW_BUFFER, &out));
    REFUSED(gc.GCUnregisterEvent(bad, EVENT_NEW_BUFFER));
    REFUSED(gc.EventGetData(bad, text, &size, 0));
    REFUSED(gc.EventGetDataInfo(bad, text, sizeof text, EVENT_DATA_ID, &type, text, &size));
    REFUSED(gc.EventGetInfo(bad, EVENT_EVENT_TYPE, &type, text, &size));
    REFUSED(gc.EventFlush(bad));
    REFUSED(gc.EventKill(bad));
    REFUSED(gc.TLClose(bad));
    REFUSED(gc.TLGetInfo(bad, TL_INFO_ID, &type, text, &size));
    REFUSED(gc.TLGetNumInterfaces(bad, &count));
    REFUSED(gc.TLGetInterfaceID(bad, 0, text, &size));
    REFUSED(gc.TLGetInterfaceInfo(bad, "SIMULATOR", INTERFACE_INFO_ID, &type, text, &size));
    REFUSED(gc.TLOpenInterface(bad, "SIMULATOR", &out));
    REFUSED(gc.TLUpdateInterfaceList(bad, NULL, 0));
    REFUSED(gc.IFClose(bad));
    REFUSED(gc.IFGetInfo(bad, INTERFACE_INFO_ID, &type, text, &size));
    REFUSED(gc.IFGetNumDevices(bad, &count));
    REFUSED(gc.IFGetDeviceID(bad, 0, text, &size));
    REFUSED(gc.IFUpdateDeviceList(bad, NULL, 0));
    REFUSED(gc.IFGetDeviceInfo(bad, "SIM0001", DEVICE_INFO_ID, &type, text, &size));
    REFUSED(gc.IFOpenDevice(bad, "SIM0001", DEVICE_ACCESS_EXCLUSIVE, &out));
    REFUSED(gc.IFGetParentTL(bad, &out));
    REFUSED(gc.DevClose(bad));
    REFUSED(gc.DevGetInfo(bad, DEVICE_INFO_ID, &type, text, &size));
    REFUSED(gc.DevGetPort(bad, &out));
    REFUSED(gc.DevGetNumDataStreams(bad, &count));
    REFUSED(gc.DevGetDataStreamID(bad, 0, text, &size));
    REFUSED(gc.DevOpenDataStream(bad, "Stream0", &out));
    REFUSED(gc.DevGetParentIF(bad, &out));
    REFUSED(gc.DSClose(bad));
    REFUSED(gc.DSGetInfo(bad, 0, &type, text, &size));
    REFUSED(gc.DSAnnounceBuffer(bad, text, sizeof text, NULL, &out));
    REFUSED(gc.DSAllocAndAnnounceBuffer(bad, 64, NULL, &out));
    REFUSED(gc.DSRevokeBuffer(bad, bad, &memory, &memory));
    REFUSED(gc.DSQueueBuffer(bad, bad));
    REFUSED(gc.DSFlushQueue(bad, ACQ_QUEUE_ALL_DISCARD));
    REFUSED(gc.DSStartAcquisition(bad, 0, GENTL_INFINITE));
    REFUSED(gc.DSStopAcquisition(bad, 0));
    REFUSED(gc.DSGetBufferID(bad, 0, &out));
    REFUSED(gc.DSGetBufferInfo(bad, bad, BUFFER_INFO_BASE, &type, text, &size));
    REFUSED(gc.DSGetBufferChunkData(bad, bad, &chunk, &one));
    REFUSED(gc.DSGetParentDev(bad, &out));
    REFUSED(gc.DSGetNumBufferParts(bad, bad, &count));
    REFUSED(gc.DSGetBufferPartInfo(bad, bad, 0, 0, &type, text, &size));
    REFUSED(gc.DSAnnounceCompositeBuffer(bad, 1, &memory, &one, NULL, &out));
    REFUSED(gc.DSGetNumFlows(bad, &count));
    REFUSED(gc.DSGetFlowInfo(bad, 0, 0, &type, text, &size));
    REFUSED(gc.DSGetNumBufferSegments(bad, bad, &count));
    REFUSED(gc.DSGetBufferSegmentInfo(bad, bad, 0, 0, &type, text, &size));
}

static void wrong_handles(void)
{
    int mine = 0;
    call_all_with(NULL);
    call_all_with(&mine);
    call_all_with((HANDLE)UINTPTR_MAX);
    call_all_with((HANDLE)(uintptr_t)1);
}

/* ---- questions ----------------------------------------------------------------------------------------------- */

/* Asks twice, for the size and for the answer, then with one byte too little, then with nothing. */
#define ASK(call)                                                                                                      \
    for (INFO_CMD command = -2; command < 40; command++) {                                                             \
        INFO_DATATYPE type_ = 0, *type = &type_;                                                                       \
        size_t size_ = 0, *size = &size_;                                                                              \
        void *data = NULL;                                                                                             \
        if ((call) == 0) {                                                                                             \
            size_t needed = size_;                                                                                     \
            data = malloc(needed);                                                                                     \
            expect((call) == 0 && size_ == needed && type_ != 0);                                                      \
            size_ = needed - 1;                                                                                        \
            expect((call) == GC_ERR_BUFFER_TOO_SMALL && size_ == needed);                                              \
            type = NULL;                                                                                               \
            expect((call) == 0);                                                                                       \
            free(data);                                                                                                \
        }                                                                                                              \
        data = NULL, size = NULL, type = NULL;                                                                         \
        expect((call) < 0);                                                                                            \
    }

static void questions(void)
{
    HANDLE ports[] = {tl, interface, device, remote, stream, buffers[0]};
    ASK(gc.GCGetInfo(command, type, data, size));
    ASK(gc.TLGetInfo(tl, command, type, data, size));
    ASK(gc.TLGetInterfaceInfo(tl, "SIMULATOR", command, type, data, size));
    ASK(gc.IFGetInfo(interface, command, type, data, size));
    ASK(gc.IFGetDeviceInfo(interface, "SIM0002", command, type, data, size));
    ASK(gc.DevGetInfo(device, command, type, data, size));
    ASK(gc.DSGetInfo(stream, command, type, data, size));
    ASK(gc.EventGetInfo(event, command, type, data, size));
    ASK(gc.DSGetBufferInfo(stream, buffers[0], command, type, data, size));
    ASK(gc.GCGetPortURLInfo(remote, 0, command, type, data, size));
    for (size_t i = 0; i < sizeof ports / sizeof *ports; i++)
        ASK(gc.GCGetPortInfo(ports[i], command, type, data, size));
    expect(gc.GCGetPortInfo(event, PORT_INFO_ID, NULL, NULL, NULL) < 0);
    uint32_t urls = 0;
    expect(gc.GCGetNumPortURLs(tl, &urls) < 0 && gc.GCGetNumPortURLs(stream, &urls) < 0);
    expect(gc.GCGetNumPortURLs(remote, &urls) == 0 && urls == 1);
    HANDLE parent = NULL;
    expect(gc.IFGetParentTL(interface, &parent) == 0 && parent == tl);
    expect(gc.DevGetParentIF(device, &parent) == 0 && parent == interface);
    expect(gc.DSGetParentDev(stream, &parent) == 0 && parent == device);
    expect(gc.GCRegisterEvent(device, 5, &parent) == GC_ERR_NOT_IMPLEMENTED);
    expect(gc.GCRegisterEvent(stream, EVENT_NEW_BUFFER, &parent) == GC_ERR_RESOURCE_IN_USE);
}

static void null_places(void)
{
    expect(gc.TLGetNumInterfaces(tl, NULL) < 0);
    expect(gc.TLOpenInterface(tl, NULL, NULL) < 0);
    expect(gc.TLGetInterfaceInfo(tl, NULL, 0, NULL, NULL, NULL) < 0);
    expect(gc.IFGetNumDevices(interface, NULL) < 0);
    expect(gc.IFGetDeviceID(interface, 9, NULL, NULL) < 0);
    expect(gc.IFGetDeviceInfo(interface, NULL, 0, NULL, NULL, NULL) < 0);
    expect(gc.IFOpenDevice(interface, NULL, 0, NULL) < 0);
    expect(gc.IFOpenDevice(interface, "SIM0002", 4, NULL) < 0);
    expect(gc.DevGetPort(device, NULL) < 0);
    expect(gc.DevOpenDataStream(device, NULL, NULL) < 0);
    expect(gc.DevOpenDataStream(device, "Stream0", &interface) == GC_ERR_RESOURCE_IN_USE);
    expect(gc.DSAnnounceBuffer(stream, NULL, 1, NULL, &interface) < 0);
    expect(gc.DSAllocAndAnnounceBuffer(stream, 0, NULL, &interface) < 0);
    expect(gc.DSAllocAndAnnounceBuffer(stream, SIZE_MAX, NULL, &interface) < 0);
    expect(gc.DSGetBufferID(stream, 0, NULL) < 0);
    expect(gc.DSFlushQueue(stream, 17) < 0);
    expect(gc.DSStartAcquisition(stream, 3, 1) < 0);
    expect(gc.EventGetData(event, NULL, NULL, 0) < 0);
    expect(gc.EventGetDataInfo(event, NULL, 0, 0, NULL, NULL, NULL) < 0);
    expect(gc.GCReadPort(remote, 0x1000, NULL, NULL) < 0);
    expect(gc.GCWritePort(remote, 0x1000, NULL, NULL) < 0);
    expect(gc.GCReadPortStacked(remote, NULL, NULL) < 0);
    expect(gc.GCGetLastError(NULL, NULL, NULL) == 0);
}

/* ---- random registers ---------------------------------------------------------------------------------------- */

static uint32_t dice(void)
{
    static uint32_t state = 2463534242U;
    state ^= state << 13;
    state ^= state >> 17;
    return state ^= state << 5;
}

/* Whatever is written, what the registers say stays within what a frame may be. */
static void random_registers(void)
{
    for (int i = 0; i < 20000; i++) {
        uint64_t address = 0x1000 + (dice() % 0x60) * 0x100 + (dice() % 50 == 0 ? dice() % 64 : 0);
        int64_t value = dice() % 3 ? (int64_t)(dice() % 20000) : (int64_t)((uint64_t)dice() << 32 | dice());
        char bytes[80];
        for (size_t at = 0; at < sizeof bytes; at += sizeof value)
            memcpy(bytes + at, &value, sizeof value);
        size_t size = dice() % 20 ? 8 : dice() % sizeof bytes;
        (void)(dice() % 2 ? gc.GCReadPort(remote, address, bytes, &size)
                          : gc.GCWritePort(remote, address, bytes, &size));
    }
    int64_t width = get("Width"), offset = get("OffsetX");
    expect(width >= 64 && width % 4 == 0 && offset >= 0 && width + offset <= get("SensorWidth"));
    expect(get("Height") >= 1 && get("Height") <= 8192);
}

/* ---- acquiring ----------------------------------------------------------------------------------------------- */

static void announce(size_t size)
{
    for (int i = 0; i < BUFFERS; i++) {
        expect(gc.DSAllocAndAnnounceBuffer(stream, size, NULL, &buffers[i]) == 0);
        expect(gc.DSQueueBuffer(stream, buffers[i]) == 0);
        expect(gc.DSQueueBuffer(stream, buffers[i]) == GC_ERR_RESOURCE_IN_USE);
    }
}

static void revoke_all(void)
{
    void *memory;
    expect(gc.DSFlushQueue(stream, ACQ_QUEUE_ALL_DISCARD) == 0);
    for (int i = 0; i < BUFFERS; i++) {
        expect(gc.DSRevokeBuffer(stream, buffers[i], &memory, NULL) == 0);
        expect(gc.DSRevokeBuffer(stream, buffers[i], &memory, NULL) == GC_ERR_INVALID_HANDLE);
        expect(gc.DSQueueBuffer(stream, buffers[i]) == GC_ERR_INVALID_HANDLE);
    }
}

static void start(void)
{
    expect(gc.DSStartAcquisition(stream, 0, GENTL_INFINITE) == 0);
    expect(gc.DSStartAcquisition(stream, 0, GENTL_INFINITE) == GC_ERR_RESOURCE_IN_USE);
    expect(set("AcquisitionStart", 1) == 0);
    expect(set("Width", WIDTH) == GC_ERR_ACCESS_DENIED);
}

static void stop(void)
{
    expect(set("AcquisitionStop", 1) == 0);
    expect(gc.DSStopAcquisition(stream, 0) == 0);
    expect(gc.DSStopAcquisition(stream, 0) == GC_ERR_RESOURCE_IN_USE);
}

static HANDLE fetch(void)
{
    EVENT_NEW_BUFFER_DATA data = {0};
    size_t size = sizeof data;
    expect(gc.EventGetData(event, &data, &size, 10000) == 0);
    return data.BufferHandle;
}

static uint64_t info(HANDLE buffer, INFO_CMD command)
{
    uint64_t value = 0;
    size_t size = sizeof value;
    expect(gc.DSGetBufferInfo(stream, buffer, command, NULL, &value, &size) == 0);
    return value;
}

static void check_chunks(HANDLE buffer)
{
    SINGLE_CHUNK_DATA chunks[8];
    size_t count = 0;
    expect(gc.DSGetBufferChunkData(stream, buffer, NULL, &count) == 0 && count >= 4 && count <= 5);
    expect(gc.DSGetBufferChunkData(stream, buffer, chunks, &count) == 0);
    size_t room = count - 1;
    expect(gc.DSGetBufferChunkData(stream, buffer, chunks, &room) == GC_ERR_BUFFER_TOO_SMALL);
    for (size_t i = 0; i < count; i++)
        expect((size_t)chunks[i].ChunkOffset + chunks[i].ChunkLength + 8 <= info(buffer, BUFFER_INFO_SIZE_FILLED));
}

static void frames_of(int64_t format, int64_t layout)
{
    uint64_t next_id = 0;
    expect(set("PixelFormat", format) == 0 && set("ChunkLayout", layout) == 0 && set("ChunkModeActive", 1) == 0);
    announce((size_t)get("PayloadSize"));
    start();
    for (int i = 0; i < 6; i++) {
        HANDLE buffer = fetch();
        expect(info(buffer, BUFFER_INFO_IS_INCOMPLETE) == 0);
        expect(info(buffer, BUFFER_INFO_FRAMEID) >= next_id); /* a busy machine may miss some */
        next_id = info(buffer, BUFFER_INFO_FRAMEID) + 1;
        check_chunks(buffer);
        if (i == 0)
            ASK(gc.DSGetBufferInfo(stream, buffer, command, type, data, size));
        expect(gc.DSQueueBuffer(stream, buffer) == 0);
    }
    stop();
    revoke_all();
}

static void too_small_buffers(void)
{
    expect(set("ChunkLayout", 2) == 0);
    for (size_t size = 1; size < 3000; size += 611) {
        announce(size);
        start();
        HANDLE buffer = fetch();
        expect(info(buffer, BUFFER_INFO_IS_INCOMPLETE) == 1);
        expect(info(buffer, BUFFER_INFO_DATA_LARGER_THAN_BUFFER) == 1);
        expect(info(buffer, BUFFER_INFO_SIZE_FILLED) <= size);
        stop();
        revoke_all();
    }
}

static void *wait_for_ever(void *result)
{
    EVENT_NEW_BUFFER_DATA data;
    size_t size = sizeof data;
    *(GC_ERROR *)result = gc.EventGetData(event, &data, &size, GENTL_INFINITE);
    return NULL;
}

/* A waiting thread comes home when the event is killed, unregistered, or its stream closed. */
static void end_waiting(void (*end)(void))
{
    pthread_t thread;
    GC_ERROR result = 0;
    pthread_create(&thread, NULL, wait_for_ever, &result);
    usleep(20000);
    end();
    pthread_join(thread, NULL);
    expect(result == GC_ERR_ABORT || result == GC_ERR_INVALID_HANDLE);
}

static void kill_event(void)
{
    expect(gc.EventKill(event) == 0);
}

static void unregister(void)
{
    expect(gc.GCUnregisterEvent(stream, EVENT_NEW_BUFFER) == 0);
    expect(gc.GCUnregisterEvent(stream, EVENT_NEW_BUFFER) < 0);
}

static void close_stream(void)
{
    expect(gc.DSClose(stream) == 0);
}

static void flush_ways(void)
{
    uint64_t queued = 0;
    size_t size = sizeof queued;
    announce((size_t)get("PayloadSize"));
    expect(gc.DSFlushQueue(stream, ACQ_QUEUE_INPUT_TO_OUTPUT) == 0);
    HANDLE buffer = fetch();
    expect(info(buffer, BUFFER_INFO_NEW_DATA) == 0);
    expect(gc.DSGetBufferInfo(stream, buffer, BUFFER_INFO_FRAMEID, NULL, &queued, &size) == GC_ERR_NO_DATA);
    expect(gc.DSFlushQueue(stream, ACQ_QUEUE_OUTPUT_DISCARD) == 0);
    expect(gc.DSFlushQueue(stream, ACQ_QUEUE_UNQUEUED_TO_INPUT) == 0);
    expect(gc.DSFlushQueue(stream, ACQ_QUEUE_ALL_TO_INPUT) == 0);
    expect(gc.DSGetInfo(stream, STREAM_INFO_NUM_QUEUED, NULL, &queued, &size) == 0 && queued == BUFFERS);
    expect(gc.EventFlush(event) == 0);
    revoke_all();
}

/* Everything at once: two threads fetch and queue while the main one starts, stops, and closes under them. */
static atomic_bool storm_over;

static void *storm(void *unused)
{
    (void)unused;
    while (!storm_over) {
        EVENT_NEW_BUFFER_DATA data;
        size_t size = sizeof data;
        uint64_t value;
        if (gc.EventGetData(event, &data, &size, 1) == 0) {
            size = sizeof value;
            (void)gc.DSGetBufferInfo(stream, data.BufferHandle, BUFFER_INFO_FRAMEID, NULL, &value, &size);
            (void)gc.DSQueueBuffer(stream, data.BufferHandle);
        }
    }
    return NULL;
}

static void close_under_load(void)
{
    pthread_t threads[2];
    expect(set_real("AcquisitionLineRate", 200000) == 0);
    announce((size_t)get("PayloadSize"));
    storm_over = false;
    for (int i = 0; i < 2; i++)
        pthread_create(&threads[i], NULL, storm, NULL);
    for (int i = 0; i < 20; i++) {
        start();
        usleep(3000);
        stop();
    }
    start();
    usleep(10000);
    expect(gc.DevClose(device) == 0);
    usleep(5000);
    storm_over = true;
    for (int i = 0; i < 2; i++)
        pthread_join(threads[i], NULL);
}

static void reopen(void)
{
    expect(gc.IFOpenDevice(interface, "SIM0001", DEVICE_ACCESS_EXCLUSIVE, &device) == 0);
    expect(gc.DevGetPort(device, &remote) == 0);
    expect(gc.DevOpenDataStream(device, "Stream0", &stream) == 0);
    expect(gc.GCRegisterEvent(stream, EVENT_NEW_BUFFER, &event) == 0);
    expect(set("Width", WIDTH) == 0 && set("Height", HEIGHT) == 0);
    expect(set_real("AcquisitionLineRate", 50000) == 0);
}

static void read_only(void)
{
    HANDLE second, port;
    double rate = 5;
    size_t size = sizeof rate;
    expect(gc.IFOpenDevice(interface, "SIM0002", DEVICE_ACCESS_READONLY, &second) == 0);
    expect(gc.DevGetPort(second, &port) == 0);
    expect(gc.GCReadPort(port, address_of("AcquisitionLineRate"), &rate, &size) == 0);
    expect(gc.GCWritePort(port, address_of("AcquisitionLineRate"), &rate, &size) == GC_ERR_ACCESS_DENIED);
    expect(gc.DevClose(second) == 0);
    expect(gc.DevClose(second) == GC_ERR_INVALID_HANDLE);
}

static void whole_life(void)
{
    static const int64_t formats[] = {0x01080001, 0x01100003, 0x01100005, 0x010C0047, 0x02180014};
    wrong_handles();
    expect(gc.GCInitLib() == 0);
    expect(gc.GCInitLib() == GC_ERR_RESOURCE_IN_USE);
    wrong_handles();
    open_device();
    read_description();
    wrong_handles();
    null_places();
    random_registers();
    expect(gc.DevClose(device) == 0);
    reopen();
    announce((size_t)get("PayloadSize"));
    questions();
    revoke_all();
    for (size_t i = 0; i < sizeof formats / sizeof *formats; i++)
        for (int64_t layout = 0; layout < 3; layout++)
            frames_of(formats[i], layout);
    too_small_buffers();
    flush_ways();
    end_waiting(kill_event);
    end_waiting(unregister);
    expect(gc.GCRegisterEvent(stream, EVENT_NEW_BUFFER, &event) == 0);
    end_waiting(close_stream);
    read_only();
    expect(gc.DevClose(device) == 0);
    reopen();
    close_under_load();
    reopen();
    announce((size_t)get("PayloadSize"));
    start();
    fetch();
    free(description);
}

int main(int argc, char **argv)
{
    if (argc != 2) {
        fprintf(stderr, "harness PRODUCER.cti\n");
        return 2;
    }
    load(argv[1]);
    whole_life();
    expect(gc.GCCloseLib() == 0); /* with everything open and running */
    expect(gc.GCCloseLib() == GC_ERR_NOT_INITIALIZED);
    wrong_handles();
    whole_life(); /* and out without closing anything */
    printf("%d failures\n", failures);
    return failures != 0;
}
