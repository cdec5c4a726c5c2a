/* The simulator from the inside: what its files share. One mutex guards everything; it is released only while a
 * frame's pixels are painted and while somebody waits. */
#ifndef LINESCAN_SIM_SIMULATOR_H
#define LINESCAN_SIM_SIMULATOR_H

#include <limits.h>
#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "gentl.h"

#define VENDOR "linescan"
#define MODEL "Simulated line-scan camera"
#define VERSION "1.0.0"
#define XML_NAME "linescan_sim.xml"
#define XML_ADDRESS UINT64_C(0x40000000)
#define SYSTEM_ID "linescan_sim"
#define INTERFACE_ID "SIMULATOR"
#define STREAM_ID "Stream0"
#define CAMERA_COUNT 2
#define NS_PER_S INT64_C(1000000000)
#define NEVER INT64_MAX /* a time or a line that does not come */

/* ---- config.c: sim.conf ------------------------------------------------------------------------------------- */

struct config {
    char strip[PATH_MAX]; /* empty: rendered web */
    int strip_line;       /* of sim.conf, for errors */
    bool loop;
    int64_t columns; /* 0: the strip's */
    double line_rate;
    bool encoder;
    uint32_t encoder_counts_per_line;
    uint32_t encoder_start;
    int64_t margin;
    uint64_t first_frame_id;
    int64_t frame_id_bits;
    bool clock_web;
    int64_t max_lines; /* 0: endless */
    bool gige;         /* transport = GEV */
    int64_t timestamp_offset_ns;
    int64_t seed;
    char user_id[64];
};

/* Fills both configurations; folder NULL means defaults. */
GC_ERROR config_load(const char *folder, const char *const serials[CAMERA_COUNT], struct config configs[CAMERA_COUNT]);

/* ---- web.c: where the web is, and what it looks like -------------------------------------------------------- */

/* The web's motion: lines complete at time t = base_line + (t - base_ns) * rate, and never beyond stop_line. */
struct web {
    bool started;
    int64_t base_ns, base_line;
    double rate;
    int64_t stop_line; /* NEVER while the web runs */
    int64_t end_line;  /* of the strip, or of max_lines */
    int64_t encoder_offset;
    int64_t dark_from, dark_to, bright_from, bright_to; /* half-open */
};

int64_t web_limit(const struct web *web);
int64_t web_position(const struct web *web, int64_t now); /* lines complete */
int64_t web_next_line(const struct web *web, int64_t now); /* first line that begins now or later */
double web_exact(const struct web *web, int64_t now);
int64_t web_time_of(const struct web *web, int64_t line); /* when it begins; NEVER beyond the limit */
void web_rebase(struct web *web, int64_t now);

enum pixel_format {
    MONO8 = 0x01080001,
    MONO10 = 0x01100003,
    MONO12 = 0x01100005,
    MONO12P = 0x010C0047,
    RGB8 = 0x02180014,
};

/* What one frame of the present acquisition is made of. */
struct format {
    int64_t width, height, offset_x;
    int64_t pixel_format;
    size_t row_bytes, image_bytes;
    double gain;
    int64_t black;
    bool test_pattern;
    int64_t margin;
};

struct picture {
    const uint8_t *strip; /* 8-bit grey, columns * lines */
    int64_t columns, lines;
    void *mapped;
    size_t mapped_size;
    uint8_t *rendered;
    /* what the present format needs */
    bool ready;
    struct format format;
    uint16_t levels[256]; /* grey of the strip to level of the pixel format */
    const uint8_t *rows;  /* finished rows, or NULL: convert each line */
    size_t stride;
    uint8_t *converted;
    uint8_t *ramp;
    int64_t row_count;
};

GC_ERROR picture_open(struct picture *picture, const struct config *config);
void picture_close(struct picture *picture);
GC_ERROR picture_prepare(struct picture *picture, const struct format *format);
void picture_paint(const struct picture *picture, const struct web *web, uint8_t *image, int64_t first_line,
                   int64_t lines);
size_t row_bytes_of(int64_t pixel_format, int64_t width);

/* ---- features.c, registers.c, describe.c ------------------------------------------------------------------- */

enum feature {
    F_NONE,
    F_DeviceVendorName,
    F_DeviceModelName,
    F_DeviceVersion,
    F_DeviceSerialNumber,
    F_DeviceUserID,
    F_DeviceScanType,
    F_DeviceSFNCVersionMajor,
    F_DeviceSFNCVersionMinor,
    F_DeviceTemperature,
    F_TimestampLatch,
    F_TimestampLatchValue,
    F_SensorWidth,
    F_SensorHeight,
    F_WidthMax,
    F_HeightMax,
    F_Width,
    F_Height,
    F_OffsetX,
    F_OffsetXMax,
    F_PixelFormat,
    F_TestPattern,
    F_AcquisitionMode,
    F_AcquisitionStart,
    F_AcquisitionStop,
    F_AcquisitionFrameCount,
    F_AcquisitionLineRate,
    F_AcquisitionLineRateEnable,
    F_ExposureMode,
    F_ExposureTime,
    F_ExposureTimeMax,
    F_TriggerSelector,
    F_TriggerMode,
    F_TriggerSoftware,
    F_TriggerSource,
    F_TriggerActivation,
    F_LineTriggerSelected,
    F_FrameTriggerSelected,
    F_Gain,
    F_BlackLevel,
    F_LineStatusAll,
    F_EncoderInq,
    F_EncoderSelector,
    F_EncoderSourceA,
    F_EncoderSourceB,
    F_EncoderMode,
    F_EncoderDivider,
    F_EncoderResolution,
    F_EncoderValue,
    F_EncoderReset,
    F_EncoderLatchedValue,
    F_ChunkModeActive,
    F_ChunkSelector,
    F_ChunkEnable,
    F_ChunkLayout,
    F_PayloadSize,
    F_TLParamsLocked,
    F_COUNT,
};

enum { LINE_START, FRAME_START };                                              /* TriggerSelector */
enum { CHUNK_TIMESTAMP, CHUNK_FRAME_ID, CHUNK_ENCODER, CHUNK_LINES, CHUNKS };  /* ChunkSelector */
enum { CHUNK_ID_IMAGE = 0x101, CHUNK_ID_FIRST = 0x102 };                       /* ids follow the selector's order */
enum { IMAGE_THEN_CHUNKS, IMAGE_AS_CHUNK, CHUNKS_THEN_IMAGE };                 /* ChunkLayout */
enum { CONTINUOUS, SINGLE_FRAME, MULTI_FRAME };                                /* AcquisitionMode */
enum { SELECTIONS = 4, CHUNK_TAG_BYTES = 8, CHUNK_VALUE_BYTES = 8 };

union value {
    int64_t integer;
    double real;
};

struct camera;

void features_reset(struct camera *camera); /* values as after power-on */
char *features_describe(size_t *size);      /* the GenApi XML; the caller frees it */
GC_ERROR features_read(struct camera *camera, uint64_t address, void *buffer, size_t size);
GC_ERROR features_write(struct camera *camera, uint64_t address, const void *buffer, size_t size);
int64_t feature_integer(struct camera *camera, enum feature id);
GC_ERROR feature_set_line_rate(struct camera *camera, double rate);
bool chunk_enabled(const struct camera *camera, int chunk);
bool image_tagged(const struct camera *camera); /* the image has a chunk's tag */
size_t payload_bytes(struct camera *camera);

/* ---- camera.c: the thread that exposes lines; control.c: state folder ---------------------------------------- */

struct frame_info {
    bool has_data, incomplete, larger_than_buffer, has_chunks;
    uint64_t id, timestamp_ns;
    struct format format;
    int64_t delivered_lines;
    int payload_type;
    size_t image_offset, data_bytes, filled_bytes;
    SINGLE_CHUNK_DATA chunks[CHUNKS + 1];
    size_t chunk_count;
};

struct camera {
    const char *serial;
    struct config config;
    HANDLE device, remote; /* NULL while closed */
    int32_t access;
    bool lost, quit;       /* lost: was unplugged; stays so until the device is opened again */
    pthread_t thread;
    pthread_cond_t wake;
    int lock_file, log_file;
    union value values[F_COUNT][SELECTIONS];
    char user_id[64];
    int64_t latched_ns, latched_encoder;
    struct web web;
    struct picture picture;
    struct stream *stream;
    int64_t accounted; /* first line that the log does not name yet */
    /* the present acquisition */
    bool active;    /* between AcquisitionStart and AcquisitionStop */
    bool attending; /* lines are being exposed for frames */
    bool triggered; /* TriggerSoftware came */
    struct format format;
    uint64_t frame_id, frames_left;
    /* the frame being exposed */
    bool frame_open;
    int64_t frame_first, frame_ns, frame_encoder; /* frame_ns NEVER: its first line has not begun */
    uint32_t frame_lines_status;
    /* faults on demand */
    int64_t drop, incomplete;
};

struct library {
    bool ready;
    char folder[PATH_MAX]; /* the state folder; empty: none */
    char bad_config[512];  /* what is wrong with sim.conf: TLOpen says it, for few programs ask why GCInitLib failed */
    char *xml;
    size_t xml_size;
    struct camera cameras[CAMERA_COUNT];
    HANDLE system, interface;
    bool listed[CAMERA_COUNT];
};
extern struct library library;

GC_ERROR camera_open(struct camera *camera, int32_t access);
void camera_close(struct camera *camera);
GC_ERROR camera_start(struct camera *camera);  /* AcquisitionStart */
void camera_stop(struct camera *camera);       /* AcquisitionStop */
void camera_rate_changed(struct camera *camera);
void camera_reset_encoder(struct camera *camera);
void camera_wake(struct camera *camera);
void camera_lose(struct camera *camera);
bool camera_is_lost(struct camera *camera); /* looks at the marker too */
void camera_note_first_line(struct camera *camera, int64_t now);
double camera_line_rate(struct camera *camera);
int64_t encoder_now(const struct camera *camera);
uint32_t line_status(const struct camera *camera, int64_t encoder);

GC_ERROR control_open(struct camera *camera); /* lock, log, motion of the web */
void control_close(struct camera *camera);
void control_poll(struct camera *camera);
void control_save_web(const struct camera *camera);
void control_log_comment(const struct camera *camera, const char *text);
void control_log_frame(struct camera *camera, int64_t frame_id, int64_t first, int64_t lines, const char *outcome,
                       int64_t encoder, int64_t ns);
bool control_unplugged(const struct camera *camera);
bool control_taken(const struct camera *camera); /* by another process */

/* ---- stream.c, buffers.c, events.c -------------------------------------------------------------------------- */

enum buffer_place { ANNOUNCED, QUEUED, FILLING, AWAITING_DELIVERY };

struct buffer {
    HANDLE handle;
    struct stream *stream;
    uint8_t *memory;
    size_t size;
    void *user;
    bool owned;
    enum buffer_place place;
    struct frame_info info;
    struct buffer *next_announced, *next_queued;
};

struct queue {
    struct buffer *first, *last;
    size_t length;
};

struct event {
    HANDLE handle;
    pthread_cond_t wake;
    unsigned waiting, kills;
    bool closed;
    uint64_t fired;
};

struct stream {
    HANDLE handle;
    struct camera *camera;
    struct buffer *announced;
    size_t announced_count;
    struct queue input, output;
    struct event *event;
    struct buffer *filling;
    bool started;
    uint64_t frames_left, delivered, underrun, started_frames;
};

void queue_push(struct queue *queue, struct buffer *buffer, enum buffer_place place);
struct buffer *queue_pop(struct queue *queue, enum buffer_place place); /* NULL: it is empty */
GC_ERROR stream_open(struct camera *camera, HANDLE *handle);
void stream_close(struct stream *stream);
void event_close(struct stream *stream);
struct buffer *stream_buffer(const struct stream *stream, HANDLE handle); /* NULL: not one of this stream */
struct buffer *stream_take_buffer(struct stream *stream); /* for filling; NULL: none queued */
void stream_deliver(struct stream *stream, struct buffer *buffer);

/* ---- library.c: lock, errors, trace, handles, answers -------------------------------------------------------- */

enum handle_kind {
    HANDLE_SYSTEM = 1,
    HANDLE_INTERFACE,
    HANDLE_DEVICE,
    HANDLE_REMOTE,
    HANDLE_STREAM,
    HANDLE_BUFFER,
    HANDLE_EVENT,
};

extern pthread_mutex_t lock;

int64_t now_ns(void);
void condition_init(pthread_cond_t *condition);            /* on the monotonic clock */
void condition_wait_until(pthread_cond_t *condition, int64_t ns); /* NEVER: without end */

/* Every entry point begins with enter() and ends with leave(), which traces the call and gives its result back. */
void enter(void);
GC_ERROR leave(GC_ERROR error, const char *format, ...) __attribute__((format(printf, 2, 3)));
GC_ERROR fail(GC_ERROR error, const char *format, ...) __attribute__((format(printf, 2, 3)));
GC_ERROR last_error(void);
const char *last_error_text(void);

HANDLE handle_new(enum handle_kind kind, void *object); /* NULL: too many */
void handle_free(HANDLE handle);
void *handle_find(enum handle_kind kind, HANDLE handle); /* NULL: last_error() says why */
enum handle_kind handle_kind_of(HANDLE handle);          /* 0: not a handle */

GC_ERROR answer_text(const char *text, INFO_DATATYPE *type, void *buffer, size_t *size);
GC_ERROR answer_value(INFO_DATATYPE kind, uint64_t value, INFO_DATATYPE *type, void *buffer, size_t *size);
/* Puts a count or a handle where the caller wants it. */
#define GIVE(into, value)                                                                                              \
    ((into) ? (*(into) = (value), GC_ERR_SUCCESS) : fail(GC_ERR_INVALID_PARAMETER, "no place given"))
GC_ERROR answer_id(const char *text, char *buffer, size_t *size);

#endif
