/* The registers behind the features: values, reading, and writing within their limits. */
#define _GNU_SOURCE
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "features.h"

/* ---- values -------------------------------------------------------------------------------------------------- */

static int selection(const struct camera *camera, enum feature id)
{
    return features[id].selector ? (int)camera->values[features[id].selector][0].integer : 0;
}

static union value *stored(struct camera *camera, enum feature id)
{
    return &camera->values[id][selection(camera, id)];
}

void features_reset(struct camera *camera)
{
    for (enum feature id = 1; id < F_COUNT; id++)
        for (int i = 0; i < SELECTIONS; i++) {
            if (features[id].kind == FLOAT)
                camera->values[id][i].real = features[id].real_initial;
            else
                camera->values[id][i].integer = features[id].initial;
        }
    camera->values[F_TriggerSource][FRAME_START].integer = 1;
    camera->values[F_AcquisitionLineRate][0].real = camera->config.line_rate;
    int64_t columns = feature_integer(camera, F_SensorWidth);
    camera->values[F_Width][0].integer = columns;
    double most = 1e6 / camera->config.line_rate - READOUT_US;
    if (camera->values[F_ExposureTime][0].real > most)
        camera->values[F_ExposureTime][0].real = most;
    snprintf(camera->user_id, sizeof camera->user_id, "%s", camera->config.user_id);
    camera->latched_encoder = 0;
}

bool chunk_enabled(const struct camera *camera, int chunk)
{
    if (chunk == CHUNK_ENCODER && !camera->config.encoder)
        return false;
    return camera->values[F_ChunkModeActive][0].integer && camera->values[F_ChunkEnable][chunk].integer;
}

/* GigE Vision tags the image in either layout: its parser goes through the buffer tag by tag. */
bool image_tagged(const struct camera *camera)
{
    return camera->values[F_ChunkModeActive][0].integer &&
           (camera->config.gige || camera->values[F_ChunkLayout][0].integer != IMAGE_THEN_CHUNKS);
}

size_t payload_bytes(struct camera *camera)
{
    int64_t width = camera->values[F_Width][0].integer, height = camera->values[F_Height][0].integer;
    size_t bytes = row_bytes_of(camera->values[F_PixelFormat][0].integer, width) * (size_t)height;
    for (int chunk = 0; chunk < CHUNKS; chunk++)
        bytes += chunk_enabled(camera, chunk) ? CHUNK_VALUE_BYTES + CHUNK_TAG_BYTES : 0;
    return bytes + (image_tagged(camera) ? CHUNK_TAG_BYTES : 0);
}

static int64_t sensor_width(const struct camera *camera)
{
    int64_t columns = camera->config.columns ? camera->config.columns : camera->picture.columns;
    return (columns > WIDTH_MOST ? WIDTH_MOST : columns) / 4 * 4;
}

static double exposure_most(struct camera *camera)
{
    if (!camera->values[F_AcquisitionLineRateEnable][0].integer)
        return 1e6 - READOUT_US;
    return 1e6 / camera->values[F_AcquisitionLineRate][0].real - READOUT_US;
}

double camera_line_rate(struct camera *camera)
{
    if (camera->values[F_AcquisitionLineRateEnable][0].integer)
        return camera->values[F_AcquisitionLineRate][0].real;
    return fmin(LINE_RATE_MOST, 1e6 / (camera->values[F_ExposureTime][0].real + READOUT_US));
}

static int64_t compute(struct camera *camera, enum feature id)
{
    switch (id) {
    case F_TimestampLatchValue:
        return camera->latched_ns;
    case F_SensorWidth:
        return sensor_width(camera);
    case F_WidthMax:
        return sensor_width(camera) - camera->values[F_OffsetX][0].integer;
    case F_OffsetXMax:
        return sensor_width(camera) - camera->values[F_Width][0].integer;
    case F_LineTriggerSelected:
        return camera->values[F_TriggerSelector][0].integer == LINE_START;
    case F_FrameTriggerSelected:
        return camera->values[F_TriggerSelector][0].integer == FRAME_START;
    case F_LineStatusAll:
        return line_status(camera, encoder_now(camera));
    case F_EncoderInq:
        return camera->config.encoder;
    case F_EncoderDivider:
        return camera->config.encoder_counts_per_line;
    case F_EncoderValue:
        return encoder_now(camera);
    case F_EncoderLatchedValue:
        return camera->latched_encoder;
    case F_PayloadSize:
        return (int64_t)payload_bytes(camera);
    default:
        return 0;
    }
}

/* 41 degrees, swaying by one in five minutes. */
static double temperature(void)
{
    return 41.0 + sin((double)(now_ns() % (300 * NS_PER_S)) / (300.0 * NS_PER_S) * 6.283185307);
}

static double feature_real(struct camera *camera, enum feature id)
{
    if (id == F_DeviceTemperature)
        return temperature();
    return id == F_ExposureTimeMax ? exposure_most(camera) : stored(camera, id)->real;
}

int64_t feature_integer(struct camera *camera, enum feature id)
{
    return features[id].computed ? compute(camera, id) : stored(camera, id)->integer;
}

static const char *text_of(const struct camera *camera, enum feature id)
{
    switch (id) {
    case F_DeviceVendorName:
        return VENDOR;
    case F_DeviceModelName:
        return MODEL;
    case F_DeviceVersion:
        return VERSION;
    case F_DeviceSerialNumber:
        return camera->serial;
    default:
        return camera->user_id;
    }
}

/* ---- reading ------------------------------------------------------------------------------------------------- */

/* The register that begins at `address`; F_NONE: there is none. */
static enum feature feature_at(uint64_t address, size_t size)
{
    if (address < REGISTER_BASE || (address - REGISTER_BASE) % REGISTER_STEP)
        return F_NONE;
    uint64_t id = (address - REGISTER_BASE) / REGISTER_STEP;
    return id > F_NONE && id < F_COUNT && size <= register_bytes((enum feature)id) ? (enum feature)id : F_NONE;
}

static GC_ERROR no_register(uint64_t address, size_t size)
{
    return fail(GC_ERR_INVALID_ADDRESS, "no register of %zu bytes at 0x%" PRIx64, size, address);
}

static GC_ERROR not_implemented(enum feature id)
{
    return fail(GC_ERR_NOT_AVAILABLE, "%s: this camera has no encoder", features[id].name);
}

GC_ERROR features_read(struct camera *camera, uint64_t address, void *buffer, size_t size)
{
    if (address >= XML_ADDRESS) {
        uint64_t offset = address - XML_ADDRESS;
        if (offset > library.xml_size || size > library.xml_size - offset)
            return no_register(address, size);
        memcpy(buffer, library.xml + offset, size);
        return GC_ERR_SUCCESS;
    }
    enum feature id = feature_at(address, size);
    char bytes[STRING_BYTES] = {0};
    if (id == F_NONE)
        return no_register(address, size);
    if (features[id].if_true && !feature_integer(camera, features[id].if_true))
        return not_implemented(id);
    int64_t integer = 0;
    double real = 0;
    switch (features[id].kind) {
    case STRING:
        snprintf(bytes, sizeof bytes, "%s", text_of(camera, id));
        break;
    case FLOAT:
        real = feature_real(camera, id);
        memcpy(bytes, &real, sizeof real);
        break;
    default:
        integer = feature_integer(camera, id);
        memcpy(bytes, &integer, sizeof integer);
    }
    memcpy(buffer, bytes, size);
    return GC_ERR_SUCCESS;
}

/* ---- writing ------------------------------------------------------------------------------------------------- */

static GC_ERROR check_integer(struct camera *camera, enum feature id, int64_t value)
{
    const struct description *d = &features[id];
    int64_t most = d->most_is ? feature_integer(camera, d->most_is) : d->most;
    if (value < d->least || value > most || (value - d->least) % d->step)
        return fail(GC_ERR_INVALID_VALUE, "%s = %" PRId64 ": expected %" PRId64 " to %" PRId64 " in steps of %" PRId64,
                    d->name, value, d->least, most, d->step);
    return GC_ERR_SUCCESS;
}

static GC_ERROR check_entry(struct camera *camera, enum feature id, int64_t value)
{
    for (const struct entry *entry = features[id].entries; entry->name; entry++)
        if (entry->value == value && (!entry->if_true || feature_integer(camera, entry->if_true)))
            return GC_ERR_SUCCESS;
    return fail(GC_ERR_INVALID_VALUE, "%s = %" PRId64 ": no such entry now", features[id].name, value);
}

static GC_ERROR write_real(struct camera *camera, enum feature id, double value)
{
    const struct description *d = &features[id];
    double most = d->most_is ? feature_real(camera, d->most_is) : d->real_most;
    if (!(value >= d->real_least && value <= most))
        return fail(GC_ERR_INVALID_VALUE, "%s = %g: expected %g to %g", d->name, value, d->real_least, most);
    stored(camera, id)->real = value;
    double exposure = exposure_most(camera);
    if (id == F_AcquisitionLineRate && camera->values[F_ExposureTime][0].real > exposure)
        camera->values[F_ExposureTime][0].real = exposure;
    if (id == F_AcquisitionLineRate || id == F_ExposureTime)
        camera_rate_changed(camera);
    return GC_ERR_SUCCESS;
}

GC_ERROR feature_set_line_rate(struct camera *camera, double rate)
{
    return write_real(camera, F_AcquisitionLineRate, rate);
}

static GC_ERROR execute(struct camera *camera, enum feature id)
{
    switch (id) {
    case F_AcquisitionStart:
        return camera_start(camera);
    case F_AcquisitionStop:
        camera_stop(camera);
        break;
    case F_TimestampLatch:
        camera->latched_ns = now_ns() + camera->config.timestamp_offset_ns;
        break;
    case F_TriggerSoftware:
        camera->triggered = true;
        camera_wake(camera);
        break;
    case F_EncoderReset:
        camera_reset_encoder(camera);
        break;
    default:
        break;
    }
    return GC_ERR_SUCCESS;
}

static GC_ERROR write_integer(struct camera *camera, enum feature id, int64_t value)
{
    GC_ERROR error = GC_ERR_SUCCESS;
    switch (features[id].kind) {
    case COMMAND: /* its register reads 0: done at once */
        return value ? execute(camera, id) : GC_ERR_SUCCESS;
    case ENUMERATION:
        error = check_entry(camera, id, value);
        break;
    case BOOLEAN:
        value = value != 0;
        break;
    default:
        error = check_integer(camera, id, value);
    }
    if (error)
        return error;
    stored(camera, id)->integer = value;
    if (id == F_AcquisitionLineRateEnable) {
        camera->values[F_ExposureTime][0].real = fmin(camera->values[F_ExposureTime][0].real, exposure_most(camera));
        camera_rate_changed(camera);
    }
    return GC_ERR_SUCCESS;
}

GC_ERROR features_write(struct camera *camera, uint64_t address, const void *buffer, size_t size)
{
    enum feature id = feature_at(address, size);
    if (id == F_NONE || (features[id].kind != STRING && size != 8))
        return no_register(address, size);
    const struct description *d = &features[id];
    if (d->if_true && !feature_integer(camera, d->if_true))
        return not_implemented(id);
    if (d->access == RO)
        return fail(GC_ERR_ACCESS_DENIED, "%s is read-only", d->name);
    if (d->locked && (camera->active || camera->values[F_TLParamsLocked][0].integer))
        return fail(GC_ERR_ACCESS_DENIED, "%s is locked while acquiring", d->name);
    if (d->kind == STRING) {
        memset(camera->user_id, 0, sizeof camera->user_id);
        memcpy(camera->user_id, buffer, size < sizeof camera->user_id ? size : sizeof camera->user_id - 1);
        return GC_ERR_SUCCESS;
    }
    double real;
    int64_t integer;
    memcpy(&real, buffer, sizeof real);
    memcpy(&integer, buffer, sizeof integer);
    return d->kind == FLOAT ? write_real(camera, id, real) : write_integer(camera, id, integer);
}
