/* The GenApi XML, written from the table of features. */
#define _GNU_SOURCE
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "features.h"

static void describe_register(FILE *xml, enum feature id)
{
    const char *tag = features[id].kind == FLOAT ? "FloatReg" : "IntReg";
    fprintf(xml, "<%s Name=\"%sReg\"><Address>0x%" PRIx64 "</Address><Length>8</Length><AccessMode>%s</AccessMode>",
            tag, features[id].name, address_of(id), features[id].access == RO ? "RO" : "RW");
    fprintf(xml, "<pPort>Device</pPort><Cachable>NoCache</Cachable>%s<Endianess>LittleEndian</Endianess></%s>\n",
            features[id].kind == FLOAT ? "" : "<Sign>Signed</Sign>", tag);
}

static void describe_common(FILE *xml, enum feature id)
{
    const struct description *d = &features[id];
    if (d->tip)
        fprintf(xml, "<ToolTip>%s</ToolTip>", d->tip);
    fprintf(xml, "<Visibility>%s</Visibility>", d->category ? "Beginner" : "Invisible");
    if (d->if_true)
        fprintf(xml, "<pIsImplemented>%s</pIsImplemented>", features[d->if_true].name);
    if (d->locked)
        fprintf(xml, "<pIsLocked>TLParamsLocked</pIsLocked>");
}

static void describe_limits(FILE *xml, enum feature id)
{
    const struct description *d = &features[id];
    if (d->kind == FLOAT)
        fprintf(xml, "<Min>%.17g</Min>", d->real_least);
    else
        fprintf(xml, "<Min>%" PRId64 "</Min>", d->least);
    if (d->most_is)
        fprintf(xml, "<pMax>%s</pMax>", features[d->most_is].name);
    else if (d->kind == FLOAT)
        fprintf(xml, "<Max>%.17g</Max>", d->real_most);
    else
        fprintf(xml, "<Max>%" PRId64 "</Max>", d->most);
    if (d->kind == INTEGER)
        fprintf(xml, "<Inc>%" PRId64 "</Inc>", d->step);
    if (d->unit)
        fprintf(xml, "<Unit>%s</Unit>", d->unit);
}

static void describe_entries(FILE *xml, enum feature id)
{
    for (const struct entry *entry = features[id].entries; entry->name; entry++) {
        fprintf(xml, "<EnumEntry Name=\"%s\">", entry->name);
        if (entry->if_true)
            fprintf(xml, "<pIsImplemented>%s</pIsImplemented>", features[entry->if_true].name);
        fprintf(xml, "<Value>%" PRId64 "</Value></EnumEntry>", entry->value);
    }
}

static void describe_selected(FILE *xml, enum feature selector)
{
    for (enum feature id = 1; id < F_COUNT; id++)
        if (features[id].selector == selector)
            fprintf(xml, "<pSelected>%s</pSelected>", features[id].name);
}

static void describe_feature(FILE *xml, enum feature id)
{
    static const char *const tags[] = {"Integer", "Float", "Enumeration", "Boolean", "Command", "StringReg"};
    const struct description *d = &features[id];
    fprintf(xml, "<%s Name=\"%s\" NameSpace=\"%s\">", tags[d->kind], d->name, d->custom ? "Custom" : "Standard");
    describe_common(xml, id);
    if (d->kind == STRING)
        fprintf(xml, "<Address>0x%" PRIx64 "</Address><Length>%d</Length><AccessMode>%s</AccessMode>"
                "<pPort>Device</pPort><Cachable>NoCache</Cachable>",
                address_of(id), STRING_BYTES, d->access == RO ? "RO" : "RW");
    if (d->kind == ENUMERATION)
        describe_entries(xml, id);
    if (d->kind != STRING)
        fprintf(xml, "<pValue>%sReg</pValue>", d->name);
    if (d->kind == INTEGER || d->kind == FLOAT)
        describe_limits(xml, id);
    if (d->kind == BOOLEAN)
        fprintf(xml, "<OnValue>1</OnValue><OffValue>0</OffValue>");
    if (d->kind == COMMAND)
        fprintf(xml, "<CommandValue>1</CommandValue>");
    describe_selected(xml, id);
    fprintf(xml, "</%s>\n", tags[d->kind]);
    if (d->kind != STRING)
        describe_register(xml, id);
}

/* What a chunk carries is read through a port of its own, named by the chunk's id. */
static const char *const chunk_names[CHUNKS] = {"ChunkTimestamp", "ChunkFrameID", "ChunkEncoderValue",
                                                "ChunkLineStatusAll"};

static void describe_chunk(FILE *xml, int chunk)
{
    const char *name = chunk_names[chunk];
    fprintf(xml, "<Integer Name=\"%s\" NameSpace=\"Standard\"><Visibility>Beginner</Visibility>%s"
            "<pValue>%sReg</pValue></Integer>\n",
            name, chunk == CHUNK_ENCODER ? "<pIsImplemented>EncoderInq</pIsImplemented>" : "", name);
    fprintf(xml, "<IntReg Name=\"%sReg\"><Address>0x0</Address><Length>%d</Length><AccessMode>RO</AccessMode>"
            "<pPort>%sPort</pPort><Cachable>NoCache</Cachable><Sign>Signed</Sign>"
            "<Endianess>LittleEndian</Endianess></IntReg>\n",
            name, CHUNK_VALUE_BYTES, name);
    fprintf(xml, "<Port Name=\"%sPort\"><ChunkID>%08x</ChunkID></Port>\n", name, CHUNK_ID_FIRST + chunk);
}

static void describe_categories(FILE *xml)
{
    static const char *const categories[] = {DEVICE, IMAGE, ACQUISITION, ANALOG, LINES, ENCODER, CHUNK, TRANSPORT};
    enum { COUNT = sizeof categories / sizeof *categories };
    fprintf(xml, "<Category Name=\"Root\" NameSpace=\"Standard\">");
    for (int i = 0; i < COUNT; i++)
        fprintf(xml, "<pFeature>%s</pFeature>", categories[i]);
    fprintf(xml, "</Category>\n");
    for (int i = 0; i < COUNT; i++) {
        fprintf(xml, "<Category Name=\"%s\" NameSpace=\"Standard\">", categories[i]);
        for (enum feature id = 1; id < F_COUNT; id++)
            if (features[id].category && strcmp(features[id].category, categories[i]) == 0)
                fprintf(xml, "<pFeature>%s</pFeature>", features[id].name);
        for (int chunk = 0; chunk < CHUNKS && strcmp(categories[i], CHUNK) == 0; chunk++)
            fprintf(xml, "<pFeature>%s</pFeature>", chunk_names[chunk]);
        fprintf(xml, "</Category>\n");
    }
}

char *features_describe(size_t *size)
{
    char *text = NULL;
    FILE *xml = open_memstream(&text, size);
    if (!xml)
        return NULL;
    fprintf(xml, "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n"
            "<RegisterDescription ModelName=\"LinescanSimulator\" VendorName=\"linescan\" ToolTip=\"" MODEL "\" "
            "StandardNameSpace=\"None\" SchemaMajorVersion=\"1\" SchemaMinorVersion=\"1\" SchemaSubMinorVersion=\"0\" "
            "MajorVersion=\"1\" MinorVersion=\"0\" SubMinorVersion=\"0\" "
            "ProductGuid=\"3D1B7A52-94C0-4E7B-8E0B-5F3C6B1D2A10\" VersionGuid=\"8A5E0C7D-61B3-4F0E-9D35-7C2E4A9B0F11\" "
            "xmlns=\"http://www.genicam.org/GenApi/Version_1_1\">\n");
    describe_categories(xml);
    for (enum feature id = 1; id < F_COUNT; id++)
        describe_feature(xml, id);
    for (int chunk = 0; chunk < CHUNKS; chunk++)
        describe_chunk(xml, chunk);
    fprintf(xml, "<Port Name=\"Device\" NameSpace=\"Standard\"></Port>\n</RegisterDescription>\n");
    fclose(xml);
    return text;
}
