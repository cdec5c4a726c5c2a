/* What a feature is, and the table of them. */
#ifndef LINESCAN_SIM_FEATURES_H
#define LINESCAN_SIM_FEATURES_H

#include "simulator.h"

enum kind { INTEGER, FLOAT, ENUMERATION, BOOLEAN, COMMAND, STRING };
enum access { RO, RW };

struct entry {
    const char *name;
    int64_t value;
    enum feature if_true; /* offered only while this feature is not 0 */
};

struct description {
    const char *name, *category; /* category NULL: not shown, a limit or a condition of others */
    enum kind kind;
    enum access access;
    int64_t initial, least, most, step;
    double real_initial, real_least, real_most;
    enum feature most_is;  /* the upper limit is another feature */
    enum feature selector; /* each of its entries has a value of its own */
    enum feature if_true;  /* implemented only while this feature is not 0 */
    bool locked;           /* while TLParamsLocked, or while acquiring */
    bool computed;         /* not stored: compute() */
    bool custom;           /* not in the SFNC */
    const struct entry *entries;
    const char *unit, *tip;
};

#define DEVICE "DeviceControl"
#define IMAGE "ImageFormatControl"
#define ACQUISITION "AcquisitionControl"
#define ANALOG "AnalogControl"
#define LINES "DigitalIOControl"
#define ENCODER "EncoderControl"
#define CHUNK "ChunkDataControl"
#define TRANSPORT "TransportLayerControl"

enum { WIDTH_LEAST = 64, WIDTH_MOST = 16384, HEIGHT_MOST = 8192, STRING_BYTES = 64 };
#define LINE_RATE_MOST 200000.0
#define EXPOSURE_LEAST_US 1.0
#define READOUT_US 0.5

extern const struct description features[F_COUNT];

/* Each feature has a register of its own. */
#define REGISTER_BASE UINT64_C(0x1000)
#define REGISTER_STEP UINT64_C(0x100)

static inline uint64_t address_of(enum feature id)
{
    return REGISTER_BASE + (uint64_t)id * REGISTER_STEP;
}

static inline size_t register_bytes(enum feature id)
{
    return features[id].kind == STRING ? STRING_BYTES : 8;
}

#endif
