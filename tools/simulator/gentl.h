/* The part of the GenTL 1.5 C interface that the simulator speaks: types, numbers, entry points.
 * Written from the standard's numbers; names are the standard's, so that its text can be searched for them. */
#ifndef LINESCAN_SIM_GENTL_H
#define LINESCAN_SIM_GENTL_H

#include <stddef.h>
#include <stdint.h>

typedef int32_t GC_ERROR;
typedef uint8_t bool8_t;
typedef int32_t INFO_DATATYPE;
typedef int32_t INFO_CMD; /* any of the *_INFO_CMD enumerations */
typedef void *HANDLE;     /* TL, IF, DEV, DS, BUFFER, EVENT and PORT handles */

enum {
    GC_ERR_SUCCESS = 0,
    GC_ERR_ERROR = -1001,
    GC_ERR_NOT_INITIALIZED = -1002,
    GC_ERR_NOT_IMPLEMENTED = -1003,
    GC_ERR_RESOURCE_IN_USE = -1004,
    GC_ERR_ACCESS_DENIED = -1005,
    GC_ERR_INVALID_HANDLE = -1006,
    GC_ERR_INVALID_ID = -1007,
    GC_ERR_NO_DATA = -1008,
    GC_ERR_INVALID_PARAMETER = -1009,
    GC_ERR_IO = -1010,
    GC_ERR_TIMEOUT = -1011,
    GC_ERR_ABORT = -1012,
    GC_ERR_NOT_AVAILABLE = -1014,
    GC_ERR_INVALID_ADDRESS = -1015,
    GC_ERR_BUFFER_TOO_SMALL = -1016,
    GC_ERR_INVALID_INDEX = -1017,
    GC_ERR_INVALID_VALUE = -1019,
    GC_ERR_RESOURCE_EXHAUSTED = -1020,
    GC_ERR_OUT_OF_MEMORY = -1021,
    GC_ERR_BUSY = -1022,
};

enum {
    INFO_DATATYPE_STRING = 1,
    INFO_DATATYPE_INT32 = 5,
    INFO_DATATYPE_UINT32 = 6,
    INFO_DATATYPE_UINT64 = 8,
    INFO_DATATYPE_PTR = 10,
    INFO_DATATYPE_BOOL8 = 11,
    INFO_DATATYPE_SIZET = 12,
};

enum { TL_CHAR_ENCODING_UTF8 = 1 };

enum {
    TL_INFO_ID,
    TL_INFO_VENDOR,
    TL_INFO_MODEL,
    TL_INFO_VERSION,
    TL_INFO_TLTYPE,
    TL_INFO_NAME,
    TL_INFO_PATHNAME,
    TL_INFO_DISPLAYNAME,
    TL_INFO_CHAR_ENCODING,
    TL_INFO_GENTL_VER_MAJOR,
    TL_INFO_GENTL_VER_MINOR,
};

enum { INTERFACE_INFO_ID, INTERFACE_INFO_DISPLAYNAME, INTERFACE_INFO_TLTYPE };

enum {
    DEVICE_INFO_ID,
    DEVICE_INFO_VENDOR,
    DEVICE_INFO_MODEL,
    DEVICE_INFO_TLTYPE,
    DEVICE_INFO_DISPLAYNAME,
    DEVICE_INFO_ACCESS_STATUS,
    DEVICE_INFO_USER_DEFINED_NAME,
    DEVICE_INFO_SERIAL_NUMBER,
    DEVICE_INFO_VERSION,
    DEVICE_INFO_TIMESTAMP_FREQUENCY,
};

enum { DEVICE_ACCESS_READONLY = 2, DEVICE_ACCESS_CONTROL = 3, DEVICE_ACCESS_EXCLUSIVE = 4 };

enum {
    DEVICE_ACCESS_STATUS_READWRITE = 1,
    DEVICE_ACCESS_STATUS_NOACCESS = 3,
    DEVICE_ACCESS_STATUS_OPEN_READWRITE = 5,
    DEVICE_ACCESS_STATUS_OPEN_READONLY = 6,
};

enum {
    ACQ_QUEUE_INPUT_TO_OUTPUT,
    ACQ_QUEUE_OUTPUT_DISCARD,
    ACQ_QUEUE_ALL_TO_INPUT,
    ACQ_QUEUE_UNQUEUED_TO_INPUT,
    ACQ_QUEUE_ALL_DISCARD,
};

enum { ACQ_START_FLAGS_DEFAULT = 0 };
enum { ACQ_STOP_FLAGS_DEFAULT = 0, ACQ_STOP_FLAGS_KILL = 1 };

enum {
    STREAM_INFO_ID,
    STREAM_INFO_NUM_DELIVERED,
    STREAM_INFO_NUM_UNDERRUN,
    STREAM_INFO_NUM_ANNOUNCED,
    STREAM_INFO_NUM_QUEUED,
    STREAM_INFO_NUM_AWAIT_DELIVERY,
    STREAM_INFO_NUM_STARTED,
    STREAM_INFO_PAYLOAD_SIZE,
    STREAM_INFO_IS_GRABBING,
    STREAM_INFO_DEFINES_PAYLOADSIZE,
    STREAM_INFO_TLTYPE,
    STREAM_INFO_NUM_CHUNKS_MAX,
    STREAM_INFO_BUF_ANNOUNCE_MIN,
    STREAM_INFO_BUF_ALIGNMENT,
};

enum {
    BUFFER_INFO_BASE,
    BUFFER_INFO_SIZE,
    BUFFER_INFO_USER_PTR,
    BUFFER_INFO_TIMESTAMP,
    BUFFER_INFO_NEW_DATA,
    BUFFER_INFO_IS_QUEUED,
    BUFFER_INFO_IS_ACQUIRING,
    BUFFER_INFO_IS_INCOMPLETE,
    BUFFER_INFO_TLTYPE,
    BUFFER_INFO_SIZE_FILLED,
    BUFFER_INFO_WIDTH,
    BUFFER_INFO_HEIGHT,
    BUFFER_INFO_XOFFSET,
    BUFFER_INFO_YOFFSET,
    BUFFER_INFO_XPADDING,
    BUFFER_INFO_YPADDING,
    BUFFER_INFO_FRAMEID,
    BUFFER_INFO_IMAGEPRESENT,
    BUFFER_INFO_IMAGEOFFSET,
    BUFFER_INFO_PAYLOADTYPE,
    BUFFER_INFO_PIXELFORMAT,
    BUFFER_INFO_PIXELFORMAT_NAMESPACE,
    BUFFER_INFO_DELIVERED_IMAGEHEIGHT,
    BUFFER_INFO_DELIVERED_CHUNKPAYLOADSIZE,
    BUFFER_INFO_CHUNKLAYOUTID,
    BUFFER_INFO_FILENAME,
    BUFFER_INFO_PIXEL_ENDIANNESS,
    BUFFER_INFO_DATA_SIZE,
    BUFFER_INFO_TIMESTAMP_NS,
    BUFFER_INFO_DATA_LARGER_THAN_BUFFER,
    BUFFER_INFO_CONTAINS_CHUNKDATA,
};

enum { PAYLOAD_TYPE_IMAGE = 1, PAYLOAD_TYPE_CHUNK_DATA = 4 };
enum { PIXELFORMAT_NAMESPACE_PFNC_32BIT = 4 };
enum { PIXELENDIANNESS_LITTLE = 1 };

enum {
    PORT_INFO_ID,
    PORT_INFO_VENDOR,
    PORT_INFO_MODEL,
    PORT_INFO_TLTYPE,
    PORT_INFO_MODULE,
    PORT_INFO_LITTLE_ENDIAN,
    PORT_INFO_BIG_ENDIAN,
    PORT_INFO_ACCESS_READ,
    PORT_INFO_ACCESS_WRITE,
    PORT_INFO_ACCESS_NA,
    PORT_INFO_ACCESS_NI,
    PORT_INFO_VERSION,
    PORT_INFO_PORTNAME,
};

enum {
    URL_INFO_URL,
    URL_INFO_SCHEMA_VER_MAJOR,
    URL_INFO_SCHEMA_VER_MINOR,
    URL_INFO_FILE_VER_MAJOR,
    URL_INFO_FILE_VER_MINOR,
    URL_INFO_FILE_VER_SUBMINOR,
    URL_INFO_FILE_SHA1_HASH,
    URL_INFO_FILE_REGISTER_ADDRESS,
    URL_INFO_FILE_SIZE,
    URL_INFO_SCHEME,
    URL_INFO_FILENAME,
};

enum { EVENT_NEW_BUFFER = 1 };
enum { EVENT_EVENT_TYPE, EVENT_NUM_IN_QUEUE, EVENT_NUM_FIRED, EVENT_SIZE_MAX, EVENT_INFO_DATA_SIZE_MAX };
enum { EVENT_DATA_ID, EVENT_DATA_VALUE };

#define GENTL_INFINITE UINT64_MAX

/* These three cross the interface as bytes: the standard packs them. */
#pragma pack(push, 1)
typedef struct {
    HANDLE BufferHandle;
    void *pUserPointer;
} EVENT_NEW_BUFFER_DATA;
typedef struct {
    uint64_t Address;
    void *pBuffer;
    size_t Size;
} PORT_REGISTER_STACK_ENTRY;
typedef struct {
    uint64_t ChunkID;
    ptrdiff_t ChunkOffset;
    size_t ChunkLength;
} SINGLE_CHUNK_DATA;
#pragma pack(pop)

#define GC_API __attribute__((visibility("default"))) GC_ERROR

GC_API GCInitLib(void);
GC_API GCCloseLib(void);
GC_API GCGetInfo(INFO_CMD command, INFO_DATATYPE *type, void *buffer, size_t *size);
GC_API GCGetLastError(GC_ERROR *code, char *text, size_t *size);
GC_API GCReadPort(HANDLE port, uint64_t address, void *buffer, size_t *size);
GC_API GCWritePort(HANDLE port, uint64_t address, const void *buffer, size_t *size);
GC_API GCReadPortStacked(HANDLE port, PORT_REGISTER_STACK_ENTRY *entries, size_t *count);
GC_API GCWritePortStacked(HANDLE port, PORT_REGISTER_STACK_ENTRY *entries, size_t *count);
GC_API GCGetPortURL(HANDLE port, char *url, size_t *size);
GC_API GCGetNumPortURLs(HANDLE port, uint32_t *count);
GC_API GCGetPortURLInfo(HANDLE port, uint32_t index, INFO_CMD command, INFO_DATATYPE *type, void *buffer, size_t *size);
GC_API GCGetPortInfo(HANDLE port, INFO_CMD command, INFO_DATATYPE *type, void *buffer, size_t *size);
GC_API GCRegisterEvent(HANDLE source, int32_t type, HANDLE *event);
GC_API GCUnregisterEvent(HANDLE source, int32_t type);

GC_API EventGetData(HANDLE event, void *buffer, size_t *size, uint64_t timeout_ms);
GC_API EventGetDataInfo(HANDLE event, const void *data, size_t data_size, INFO_CMD command, INFO_DATATYPE *type,
                        void *buffer, size_t *size);
GC_API EventGetInfo(HANDLE event, INFO_CMD command, INFO_DATATYPE *type, void *buffer, size_t *size);
GC_API EventFlush(HANDLE event);
GC_API EventKill(HANDLE event);

GC_API TLOpen(HANDLE *system);
GC_API TLClose(HANDLE system);
GC_API TLGetInfo(HANDLE system, INFO_CMD command, INFO_DATATYPE *type, void *buffer, size_t *size);
GC_API TLGetNumInterfaces(HANDLE system, uint32_t *count);
GC_API TLGetInterfaceID(HANDLE system, uint32_t index, char *id, size_t *size);
GC_API TLGetInterfaceInfo(HANDLE system, const char *id, INFO_CMD command, INFO_DATATYPE *type, void *buffer,
                          size_t *size);
GC_API TLOpenInterface(HANDLE system, const char *id, HANDLE *interface);
GC_API TLUpdateInterfaceList(HANDLE system, bool8_t *changed, uint64_t timeout_ms);

GC_API IFClose(HANDLE interface);
GC_API IFGetInfo(HANDLE interface, INFO_CMD command, INFO_DATATYPE *type, void *buffer, size_t *size);
GC_API IFGetNumDevices(HANDLE interface, uint32_t *count);
GC_API IFGetDeviceID(HANDLE interface, uint32_t index, char *id, size_t *size);
GC_API IFUpdateDeviceList(HANDLE interface, bool8_t *changed, uint64_t timeout_ms);
GC_API IFGetDeviceInfo(HANDLE interface, const char *id, INFO_CMD command, INFO_DATATYPE *type, void *buffer,
                       size_t *size);
GC_API IFOpenDevice(HANDLE interface, const char *id, int32_t access, HANDLE *device);
GC_API IFGetParentTL(HANDLE interface, HANDLE *system);

GC_API DevClose(HANDLE device);
GC_API DevGetInfo(HANDLE device, INFO_CMD command, INFO_DATATYPE *type, void *buffer, size_t *size);
GC_API DevGetPort(HANDLE device, HANDLE *port);
GC_API DevGetNumDataStreams(HANDLE device, uint32_t *count);
GC_API DevGetDataStreamID(HANDLE device, uint32_t index, char *id, size_t *size);
GC_API DevOpenDataStream(HANDLE device, const char *id, HANDLE *stream);
GC_API DevGetParentIF(HANDLE device, HANDLE *interface);

GC_API DSClose(HANDLE stream);
GC_API DSGetInfo(HANDLE stream, INFO_CMD command, INFO_DATATYPE *type, void *buffer, size_t *size);
GC_API DSAnnounceBuffer(HANDLE stream, void *memory, size_t size, void *user, HANDLE *buffer);
GC_API DSAllocAndAnnounceBuffer(HANDLE stream, size_t size, void *user, HANDLE *buffer);
GC_API DSRevokeBuffer(HANDLE stream, HANDLE buffer, void **memory, void **user);
GC_API DSQueueBuffer(HANDLE stream, HANDLE buffer);
GC_API DSFlushQueue(HANDLE stream, int32_t operation);
GC_API DSStartAcquisition(HANDLE stream, int32_t flags, uint64_t frames);
GC_API DSStopAcquisition(HANDLE stream, int32_t flags);
GC_API DSGetBufferID(HANDLE stream, uint32_t index, HANDLE *buffer);
GC_API DSGetBufferInfo(HANDLE stream, HANDLE buffer, INFO_CMD command, INFO_DATATYPE *type, void *data, size_t *size);
GC_API DSGetBufferChunkData(HANDLE stream, HANDLE buffer, SINGLE_CHUNK_DATA *chunks, size_t *count);
GC_API DSGetParentDev(HANDLE stream, HANDLE *device);
GC_API DSGetNumBufferParts(HANDLE stream, HANDLE buffer, uint32_t *count);
GC_API DSGetBufferPartInfo(HANDLE stream, HANDLE buffer, uint32_t part, INFO_CMD command, INFO_DATATYPE *type,
                           void *data, size_t *size);
GC_API DSAnnounceCompositeBuffer(HANDLE stream, size_t segments, void **memory, size_t *sizes, void *user,
                                 HANDLE *buffer);
GC_API DSGetNumFlows(HANDLE stream, uint32_t *count);
GC_API DSGetFlowInfo(HANDLE stream, uint32_t flow, INFO_CMD command, INFO_DATATYPE *type, void *data, size_t *size);
GC_API DSGetNumBufferSegments(HANDLE stream, HANDLE buffer, uint32_t *count);
GC_API DSGetBufferSegmentInfo(HANDLE stream, HANDLE buffer, uint32_t segment, INFO_CMD command, INFO_DATATYPE *type,
                              void *data, size_t *size);

#endif
