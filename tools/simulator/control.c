/* The state folder: who holds the camera, where the web is, the log of lines, and commands from outside. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "simulator.h"

enum { PATH_ROOM = PATH_MAX + 64 }; /* the folder, and a file in it */

static const char *path_of(const struct camera *camera, const char *ending, char path[PATH_ROOM])
{
    snprintf(path, PATH_ROOM, "%s/%s.%s", library.folder, camera->serial, ending);
    return path;
}

static bool exists(const struct camera *camera, const char *ending)
{
    char path[PATH_ROOM];
    return *library.folder && access(path_of(camera, ending, path), F_OK) == 0;
}

bool control_unplugged(const struct camera *camera)
{
    return exists(camera, "unplugged");
}

/* ---- one process at a time ----------------------------------------------------------------------------------- */

/* A POSIX record lock: it ends with its process, however that ends, and a forked child does not inherit it. */
static GC_ERROR take_camera(struct camera *camera)
{
    char path[PATH_ROOM];
    struct flock whole = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    camera->lock_file = open(path_of(camera, "lock", path), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (camera->lock_file < 0)
        return fail(GC_ERR_IO, "%s: %s", path, strerror(errno));
    if (fcntl(camera->lock_file, F_SETLK, &whole) < 0)
        return fail(GC_ERR_ACCESS_DENIED, "%s is held by another process", camera->serial);
    return GC_ERR_SUCCESS;
}

/* Not to be asked by the process that holds it: closing a second descriptor would end the lock. */
bool control_taken(const struct camera *camera)
{
    char path[PATH_ROOM];
    struct flock whole = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    int file = *library.folder ? open(path_of(camera, "lock", path), O_RDWR | O_CLOEXEC) : -1;
    if (file < 0)
        return false;
    bool taken = fcntl(file, F_GETLK, &whole) == 0 && whole.l_type != F_UNLCK;
    close(file);
    return taken;
}

/* ---- log ----------------------------------------------------------------------------------------------------- */

/* One write a line, appended: what is in the file is whole lines, whenever the process dies. */
static void log_text(const struct camera *camera, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void log_text(const struct camera *camera, const char *format, ...)
{
    char line[512];
    va_list arguments;
    if (camera->log_file < 0)
        return;
    va_start(arguments, format);
    int length = vsnprintf(line, sizeof line, format, arguments);
    va_end(arguments);
    if (length >= (int)sizeof line) {
        length = sizeof line - 1;
        line[length - 1] = '\n';
    }
    ssize_t written = write(camera->log_file, line, (size_t)length);
    (void)written; /* a full disk must not stop the web */
}

void control_log_comment(const struct camera *camera, const char *text)
{
    log_text(camera, "# %s\n", text);
}

void control_log_frame(struct camera *camera, int64_t frame_id, int64_t first, int64_t lines, const char *outcome,
                       int64_t encoder, int64_t ns)
{
    log_text(camera, "%" PRId64 " %" PRId64 " %" PRId64 " %s %" PRId64 " %" PRId64 "\n", frame_id, first, lines,
             outcome, encoder, ns);
}

/* The line behind the last one that the text names; -1: it names none. */
static int64_t last_accounted(char *text)
{
    int64_t end = -1;
    char *rest = NULL;
    for (char *line = strtok_r(text, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
        int64_t id, first, lines, encoder, ns;
        char outcome[16];
        if (sscanf(line, "%" SCNd64 " %" SCNd64 " %" SCNd64 " %15s %" SCNd64 " %" SCNd64, &id, &first, &lines, outcome,
                   &encoder, &ns) == 6)
            end = first + lines;
    }
    return end;
}

static GC_ERROR open_log(struct camera *camera)
{
    enum { TAIL = 65536 };
    char path[PATH_ROOM];
    struct stat status;
    camera->log_file = open(path_of(camera, "log", path), O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    if (camera->log_file < 0 || fstat(camera->log_file, &status) < 0)
        return fail(GC_ERR_IO, "%s: %s", path, strerror(errno));
    if (status.st_size == 0)
        log_text(camera, "# frame_id first_web_line lines outcome encoder_count monotonic_ns\n");
    char *tail = calloc(1, TAIL + 1);
    if (!tail)
        return fail(GC_ERR_OUT_OF_MEMORY, "no memory for the log's end");
    off_t from = status.st_size > TAIL ? status.st_size - TAIL : 0;
    ssize_t got = pread(camera->log_file, tail, TAIL, from);
    char *text = from > 0 ? strchr(tail, '\n') : tail; /* the first line may be cut */
    int64_t end = got > 0 && text ? last_accounted(text) : -1;
    camera->accounted = end < 0 ? 0 : end;
    free(tail);
    return GC_ERR_SUCCESS;
}

/* ---- where the web is ---------------------------------------------------------------------------------------- */

#define WEB_FORMAT                                                                                                     \
    "t0_ns %" PRId64 "\nline %" PRId64 "\nrate %lf\nstop_line %" PRId64 "\nencoder_offset %" PRId64 "\ndark %" PRId64 \
    " %" PRId64 "\nbright %" PRId64 " %" PRId64 "\n"

/* Written beside and renamed: whoever reads it finds the old motion or the new one. */
void control_save_web(const struct camera *camera)
{
    char path[PATH_ROOM], beside[PATH_ROOM];
    const struct web *web = &camera->web;
    if (!*library.folder || !web->started)
        return;
    FILE *file = fopen(path_of(camera, "t0.new", beside), "we");
    if (!file)
        return;
    fprintf(file, WEB_FORMAT, web->base_ns, web->base_line, web->rate, web->stop_line, web->encoder_offset,
            web->dark_from, web->dark_to, web->bright_from, web->bright_to);
    fclose(file);
    rename(beside, path_of(camera, "t0", path));
}

static void load_web(struct camera *camera)
{
    char path[PATH_ROOM];
    struct web web = {.stop_line = NEVER};
    FILE *file = fopen(path_of(camera, "t0", path), "re");
    if (file) {
        char text[1024];
        text[fread(text, 1, sizeof text - 1, file)] = '\0';
        fclose(file);
        web.started = sscanf(text,
                             "t0_ns %" SCNd64 " line %" SCNd64 " rate %lf stop_line %" SCNd64 " encoder_offset %" SCNd64
                             " dark %" SCNd64 " %" SCNd64 " bright %" SCNd64 " %" SCNd64,
                             &web.base_ns, &web.base_line, &web.rate, &web.stop_line, &web.encoder_offset,
                             &web.dark_from, &web.dark_to, &web.bright_from, &web.bright_to) == 9;
    }
    if (!web.started || !(web.rate > 0))
        web = (struct web){.stop_line = NEVER};
    if (web.base_ns > now_ns()) /* the clock began anew with the machine: the web goes on from where it was known */
        web.base_ns = now_ns();
    camera->web = web;
}

GC_ERROR control_open(struct camera *camera)
{
    if (!*library.folder) {
        if (!camera->web.started)
            camera->web = (struct web){.stop_line = NEVER};
        return GC_ERR_SUCCESS;
    }
    GC_ERROR error = take_camera(camera);
    if (!error)
        error = open_log(camera);
    if (error)
        control_close(camera);
    else
        load_web(camera);
    return error;
}

void control_close(struct camera *camera)
{
    if (camera->log_file >= 0)
        close(camera->log_file);
    if (camera->lock_file >= 0)
        close(camera->lock_file);
    camera->log_file = camera->lock_file = -1;
}

/* ---- commands ------------------------------------------------------------------------------------------------ */

/* A camera whose lines the encoder starts holds a partial frame while the web stands. A free-running one would expose
 * the standing web again and again; here the web runs out to a frame's end instead. */
static void stop_web(struct camera *camera, int64_t now)
{
    struct web *web = &camera->web;
    bool at_once = camera->config.clock_web || camera->values[F_TriggerMode][LINE_START].integer;
    int64_t line = web->started ? web_next_line(web, now) : camera->accounted;
    bool in_frame = camera->frame_open || (camera->attending && !camera->values[F_TriggerMode][FRAME_START].integer);
    if (!at_once && in_frame) { /* the frame of the first line that the log does not name, or one behind it */
        int64_t height = camera->format.height, frames = (line - camera->accounted + height - 1) / height;
        line = camera->accounted + (frames > 0 ? frames : 1) * height;
    }
    if (web->stop_line == NEVER)
        web->stop_line = line;
}

static void start_web(struct camera *camera, int64_t now)
{
    camera_note_first_line(camera, now);
    if (camera->web.stop_line != NEVER && web_next_line(&camera->web, now) >= camera->web.stop_line)
        web_rebase(&camera->web, now);
    camera->web.stop_line = NEVER;
}

/* The next `lines` lines, from the first that is not exposed yet. */
static void blind(const struct camera *camera, int64_t now, int64_t lines, int64_t *from, int64_t *to)
{
    *from = camera->web.started ? web_next_line(&camera->web, now) : camera->accounted;
    *to = *from + lines;
}

static bool set_rate(struct camera *camera, double rate)
{
    if (!(rate >= 1 && rate <= 200000))
        return false;
    if (camera->web.started && !camera->attending) { /* else the feature does it */
        web_rebase(&camera->web, now_ns());
        camera->web.rate = rate;
    }
    return feature_set_line_rate(camera, rate) == GC_ERR_SUCCESS;
}

static void set_plugged(struct camera *camera, bool plugged)
{
    char path[PATH_ROOM];
    path_of(camera, "unplugged", path);
    if (plugged) {
        unlink(path);
        return;
    }
    int file = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0666);
    if (file >= 0)
        close(file);
}

static bool obey(struct camera *camera, const char *verb, double number)
{
    int64_t now = now_ns(), count = (int64_t)number;
    struct web *web = &camera->web;
#define IS(name) (strcmp(verb, name) == 0)
    if (IS("drop") && count >= 0)
        camera->drop = count;
    else if (IS("incomplete") && count >= 0)
        camera->incomplete = count;
    else if (IS("dark") && count >= 0)
        blind(camera, now, count, &web->dark_from, &web->dark_to);
    else if (IS("saturate") && count >= 0)
        blind(camera, now, count, &web->bright_from, &web->bright_to);
    else if (IS("stop"))
        stop_web(camera, now);
    else if (IS("go"))
        start_web(camera, now);
    else if (IS("rate"))
        return set_rate(camera, number);
    else if (IS("encoder_reset"))
        camera_reset_encoder(camera);
    else if (IS("sync") && camera->config.encoder)
        camera->latched_encoder = encoder_now(camera);
    else if (IS("unplug"))
        set_plugged(camera, false);
    else if (IS("replug"))
        set_plugged(camera, true);
    else
        return false;
#undef IS
    return true;
}

static void obey_line(struct camera *camera, const char *line)
{
    char verb[32], rest[2];
    double number = 1; /* a bare `drop` is one frame */
    int found = sscanf(line, "%31s %lf %1s", verb, &number, rest);
    if (found < 1)
        return;
    bool known = found <= 2 && number >= 0 && number <= 1e12 && obey(camera, verb, number);
    log_text(camera, "# %s: %s at line %" PRId64 "\n", known ? "command" : "not understood", line,
             camera->web.started ? web_next_line(&camera->web, now_ns()) : camera->accounted);
    control_save_web(camera);
}

/* A command file is complete when it ends with a newline; until then its writer is left alone. */
static void read_commands(struct camera *camera)
{
    char path[PATH_ROOM], text[4096];
    int file = open(path_of(camera, "command", path), O_RDONLY | O_CLOEXEC);
    if (file < 0)
        return;
    ssize_t length = read(file, text, sizeof text - 1);
    close(file);
    if (length <= 0 || text[length - 1] != '\n')
        return;
    text[length] = '\0';
    char *rest = NULL;
    for (char *line = strtok_r(text, "\r\n", &rest); line; line = strtok_r(NULL, "\r\n", &rest))
        obey_line(camera, line);
    unlink(path); /* gone means obeyed */
}

void control_poll(struct camera *camera)
{
    read_commands(camera);
    if (!camera->lost && control_unplugged(camera)) {
        camera_lose(camera);
        control_log_comment(camera, "unplugged");
    }
}
