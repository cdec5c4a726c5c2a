/* The library itself: one lock, last errors, trace of calls, handles, and how questions are answered. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "simulator.h"

pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
struct library library;

static int trace_file = -1;
static pid_t owner;
static _Thread_local GC_ERROR error_code;
static _Thread_local char error_text[512];

/* ---- time ---------------------------------------------------------------------------------------------------- */

int64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * NS_PER_S + now.tv_nsec;
}

void condition_init(pthread_cond_t *condition)
{
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(condition, &attributes);
    pthread_condattr_destroy(&attributes);
}

void condition_wait_until(pthread_cond_t *condition, int64_t ns)
{
    if (ns == NEVER) {
        pthread_cond_wait(condition, &lock);
        return;
    }
    struct timespec until = {.tv_sec = ns / NS_PER_S, .tv_nsec = ns % NS_PER_S};
    pthread_cond_timedwait(condition, &lock, &until);
}

/* ---- errors and trace ---------------------------------------------------------------------------------------- */

GC_ERROR fail(GC_ERROR error, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(error_text, sizeof error_text, format, arguments);
    va_end(arguments);
    return error_code = error;
}

GC_ERROR last_error(void)
{
    return error_code;
}

const char *last_error_text(void)
{
    return error_text;
}

void enter(void)
{
    pthread_mutex_lock(&lock);
}

/* One line a call, in one write, so that threads and processes can share the file. */
static void trace(GC_ERROR error, const char *format, va_list arguments)
{
    char line[1024];
    int64_t now = now_ns();
    int length = snprintf(line, sizeof line, "%" PRId64 ".%09" PRId64 " %d:%ld ", now / NS_PER_S, now % NS_PER_S,
                          (int)getpid(), (long)syscall(SYS_gettid));
    length += vsnprintf(line + length, sizeof line - 64 - (size_t)length, format, arguments);
    if (length > (int)sizeof line - 64)
        length = (int)sizeof line - 64;
    length += snprintf(line + length, sizeof line - (size_t)length, " = %d\n", error);
    ssize_t written = write(trace_file, line, (size_t)length);
    (void)written; /* a full disk must not disturb the camera */
}

GC_ERROR leave(GC_ERROR error, const char *format, ...)
{
    if (trace_file >= 0) {
        va_list arguments;
        va_start(arguments, format);
        trace(error, format, arguments);
        va_end(arguments);
    }
    pthread_mutex_unlock(&lock);
    return error;
}

/* ---- handles ------------------------------------------------------------------------------------------------- */

/* A handle is not an address but generation, kind and slot in one number: a stale, foreign or NULL one is recognised
 * without touching memory. */
#define SLOTS 8192

static struct slot {
    uint32_t generation;
    enum handle_kind kind; /* 0: free */
    void *object;
} slots[SLOTS];

static HANDLE handle_of(size_t index)
{
    return (HANDLE)(uintptr_t)((uint64_t)slots[index].generation << 32 | (uint64_t)slots[index].kind << 24 |
                               (index + 1));
}

static struct slot *slot_of(HANDLE handle)
{
    size_t index = ((uintptr_t)handle & 0xFFFFFF) - 1;
    if (index >= SLOTS || slots[index].kind == 0 || handle_of(index) != handle)
        return NULL;
    return &slots[index];
}

HANDLE handle_new(enum handle_kind kind, void *object)
{
    for (size_t index = 0; index < SLOTS; index++) {
        if (slots[index].kind == 0) {
            slots[index].generation++;
            slots[index].kind = kind;
            slots[index].object = object;
            return handle_of(index);
        }
    }
    fail(GC_ERR_RESOURCE_EXHAUSTED, "more than %d handles", SLOTS);
    return NULL;
}

void handle_free(HANDLE handle)
{
    struct slot *slot = slot_of(handle);
    if (slot)
        slot->kind = 0;
}

enum handle_kind handle_kind_of(HANDLE handle)
{
    struct slot *slot = slot_of(handle);
    return slot ? slot->kind : 0;
}

void *handle_find(enum handle_kind kind, HANDLE handle)
{
    if (!library.ready) {
        fail(GC_ERR_NOT_INITIALIZED, "GCInitLib was not called");
        return NULL;
    }
    struct slot *slot = slot_of(handle);
    if (!slot || slot->kind != kind) {
        fail(GC_ERR_INVALID_HANDLE, "not a handle of this kind, or a closed one: %p", handle);
        return NULL;
    }
    return slot->object;
}

/* ---- answers ------------------------------------------------------------------------------------------------- */

static GC_ERROR answer(const void *data, size_t length, INFO_DATATYPE kind, INFO_DATATYPE *type, void *buffer,
                       size_t *size)
{
    if (!size)
        return fail(GC_ERR_INVALID_PARAMETER, "the size is NULL");
    if (type)
        *type = kind;
    if (buffer && *size < length) {
        size_t given = *size;
        *size = length;
        return fail(GC_ERR_BUFFER_TOO_SMALL, "%zu bytes given, %zu needed", given, length);
    }
    if (buffer)
        memcpy(buffer, data, length);
    *size = length;
    return GC_ERR_SUCCESS;
}

GC_ERROR answer_text(const char *text, INFO_DATATYPE *type, void *buffer, size_t *size)
{
    return answer(text, strlen(text) + 1, INFO_DATATYPE_STRING, type, buffer, size);
}

GC_ERROR answer_id(const char *text, char *buffer, size_t *size)
{
    return answer_text(text, NULL, buffer, size);
}

GC_ERROR answer_value(INFO_DATATYPE kind, uint64_t value, INFO_DATATYPE *type, void *buffer, size_t *size)
{
    bool8_t truth = value != 0;
    uint32_t word = (uint32_t)value;
    switch (kind) {
    case INFO_DATATYPE_BOOL8:
        return answer(&truth, sizeof truth, kind, type, buffer, size);
    case INFO_DATATYPE_INT32:
    case INFO_DATATYPE_UINT32:
        return answer(&word, sizeof word, kind, type, buffer, size);
    default:
        return answer(&value, sizeof value, kind, type, buffer, size);
    }
}

/* ---- the library's life -------------------------------------------------------------------------------------- */

static const char *const serials[CAMERA_COUNT] = {"SIM0001", "SIM0002"};

static GC_ERROR library_open(void)
{
    if (library.ready)
        return fail(GC_ERR_RESOURCE_IN_USE, "GCInitLib was called before");
    const char *folder = getenv("LINESCAN_SIM_DIR");
    struct config configs[CAMERA_COUNT];
    memset(&library, 0, sizeof library);
    if (config_load(folder && *folder ? folder : NULL, serials, configs))
        snprintf(library.bad_config, sizeof library.bad_config, "%s", last_error_text());
    if (folder)
        snprintf(library.folder, sizeof library.folder, "%s", folder);
    library.xml = features_describe(&library.xml_size);
    if (!library.xml)
        return fail(GC_ERR_OUT_OF_MEMORY, "no memory for the device description");
    for (int i = 0; i < CAMERA_COUNT; i++) {
        struct camera *camera = &library.cameras[i];
        camera->serial = serials[i];
        camera->config = configs[i];
        camera->lock_file = camera->log_file = -1;
        condition_init(&camera->wake);
    }
    library.ready = true;
    owner = getpid();
    return GC_ERR_SUCCESS;
}

static GC_ERROR library_close(void)
{
    if (!library.ready)
        return fail(GC_ERR_NOT_INITIALIZED, "GCInitLib was not called");
    for (int i = 0; i < CAMERA_COUNT; i++)
        camera_close(&library.cameras[i]);
    for (int i = 0; i < CAMERA_COUNT; i++) {
        picture_close(&library.cameras[i].picture);
        pthread_cond_destroy(&library.cameras[i].wake);
    }
    handle_free(library.interface);
    handle_free(library.system);
    free(library.xml);
    library.xml = NULL;
    library.ready = false;
    return GC_ERR_SUCCESS;
}

static void trace_open(void)
{
    const char *path = getenv("LINESCAN_SIM_TRACE");
    if (trace_file < 0 && path && *path)
        trace_file = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
}

GC_API GCInitLib(void)
{
    enter();
    trace_open();
    return leave(library_open(), "GCInitLib()");
}

GC_API GCCloseLib(void)
{
    enter();
    GC_ERROR error = library_close();
    error = leave(error, "GCCloseLib()");
    return error;
}

/* A program may leave without closing anything: no thread may then run on in code that is unmapped. */
__attribute__((destructor)) static void unload(void)
{
    if (owner != getpid()) /* a forked child has no threads of ours, and perhaps a locked lock */
        return;
    enter();
    if (library.ready)
        library_close();
    leave(GC_ERR_SUCCESS, "unloaded");
    if (trace_file >= 0)
        close(trace_file);
    trace_file = -1;
}

static GC_ERROR system_info(INFO_CMD command, INFO_DATATYPE *type, void *buffer, size_t *size)
{
    Dl_info self;
    switch (command) {
    case TL_INFO_ID:
        return answer_text(SYSTEM_ID, type, buffer, size);
    case TL_INFO_VENDOR:
        return answer_text(VENDOR, type, buffer, size);
    case TL_INFO_MODEL:
    case TL_INFO_DISPLAYNAME:
        return answer_text("Simulated line-scan cameras", type, buffer, size);
    case TL_INFO_VERSION:
        return answer_text(VERSION, type, buffer, size);
    case TL_INFO_TLTYPE:
        return answer_text("Mixed", type, buffer, size);
    case TL_INFO_NAME:
        return answer_text("linescan_sim.cti", type, buffer, size);
    case TL_INFO_PATHNAME:
        if (!dladdr((void *)&library, &self) || !self.dli_fname)
            return fail(GC_ERR_NOT_AVAILABLE, "the path is unknown");
        return answer_text(self.dli_fname, type, buffer, size);
    case TL_INFO_CHAR_ENCODING:
        return answer_value(INFO_DATATYPE_INT32, TL_CHAR_ENCODING_UTF8, type, buffer, size);
    case TL_INFO_GENTL_VER_MAJOR:
        return answer_value(INFO_DATATYPE_UINT32, 1, type, buffer, size);
    case TL_INFO_GENTL_VER_MINOR:
        return answer_value(INFO_DATATYPE_UINT32, 5, type, buffer, size);
    default:
        return fail(GC_ERR_INVALID_PARAMETER, "no such system info: %d", command);
    }
}

GC_API GCGetInfo(INFO_CMD command, INFO_DATATYPE *type, void *buffer, size_t *size)
{
    enter();
    GC_ERROR error = library.ready ? system_info(command, type, buffer, size)
                                   : fail(GC_ERR_NOT_INITIALIZED, "GCInitLib was not called");
    return leave(error, "GCGetInfo(%d)", command);
}

GC_API TLGetInfo(HANDLE system, INFO_CMD command, INFO_DATATYPE *type, void *buffer, size_t *size)
{
    enter();
    GC_ERROR error = handle_find(HANDLE_SYSTEM, system) ? system_info(command, type, buffer, size) : last_error();
    return leave(error, "TLGetInfo(%p, %d)", system, command);
}

/* Answers before GCInitLib too: that is how its failure is read. */
GC_API GCGetLastError(GC_ERROR *code, char *text, size_t *size)
{
    enter();
    GC_ERROR error = GC_ERR_SUCCESS;
    GC_ERROR stored = error_code;
    char message[sizeof error_text];
    memcpy(message, error_text, sizeof message);
    if (code)
        *code = stored;
    if (size)
        error = answer_id(message, text, size);
    error_code = stored;
    memcpy(error_text, message, sizeof message);
    return leave(error, "GCGetLastError() -> %d %s", stored, message);
}
