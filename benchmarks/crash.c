/* Numbers the calls that change files below a folder, and lets one of them fail. For benchmarks/crash.py, which loads it
   before the C library (LD_PRELOAD): what Python, safetensors (Rust) and torch (C++) write comes by here alike. Not the
   rename at the end of a safetensors file, which Rust asks of the kernel itself: the calls before and after it do. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

enum { COUNT, DIE, TORN, SHORT, FULL, BROKEN };

static char folder[PATH_MAX];
static const char *names[8192];
static long at = -1, seen = 0;
static int fault = COUNT, full = 0;

/* Fail at the call of this number, from 0, below this folder (a real path); `how` is one of the above. */
void crash_arm(const char *path, long number, int how) {
    snprintf(folder, sizeof folder, "%s/", path);
    at = number, fault = how, seen = 0, full = 0;
}
long crash_seen(void) { return seen; }
const char *crash_name(long number) { return names[number]; }

static void die(void) {
    kill(getpid(), SIGKILL);
    for (;;) pause();
}

static int below(int at_descriptor, const char *path) {
    char whole[PATH_MAX * 2], base[PATH_MAX];
    if (!folder[0]) return 0;
    if (path && path[0] == '/') return strncmp(path, folder, strlen(folder)) == 0;
    if (at_descriptor == AT_FDCWD) {
        if (!getcwd(base, sizeof base)) return 0;
    } else {
        char name[64];
        snprintf(name, sizeof name, "/proc/self/fd/%d", at_descriptor);
        ssize_t size = readlink(name, base, sizeof base - 1);
        if (size < 0) return 0;
        base[size] = 0;
    }
    snprintf(whole, sizeof whole, path ? "%s/%s" : "%s%s", base, path ? path : "/");
    return strncmp(whole, folder, strlen(folder)) == 0;
}

/* Note the name of the call at hand, and return whether it is the one. */
static int due(const char *name) {
    if (seen < (long)(sizeof names / sizeof *names)) names[seen] = name;
    return seen++ == at;
}

#define REAL(name) __typeof__(&name) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

/* A call that is done or not. `grows`: a full disk refuses it. */
#define WHOLE(inside, grows, call)                                             \
    do {                                                                       \
        if (!(inside)) return call;                                            \
        int is_due = due(__func__);                                            \
        if (is_due && fault == DIE) die();                                     \
        if (is_due && fault == BROKEN) { errno = EIO; return -1; }             \
        if (is_due && fault == FULL) full = 1;                                 \
        if (full && (grows)) { errno = ENOSPC; return -1; }                    \
        return call;                                                           \
    } while (0)

int fsync(int d) { REAL(fsync); WHOLE(below(d, NULL), 0, real(d)); }
int fdatasync(int d) { REAL(fdatasync); WHOLE(below(d, NULL), 0, real(d)); }
int rename(const char *a, const char *b) { REAL(rename); WHOLE(below(AT_FDCWD, b), 0, real(a, b)); }
int renameat(int x, const char *a, int y, const char *b) { REAL(renameat); WHOLE(below(y, b), 0, real(x, a, y, b)); }
int unlink(const char *a) { REAL(unlink); WHOLE(below(AT_FDCWD, a), 0, real(a)); }
int unlinkat(int d, const char *a, int f) { REAL(unlinkat); WHOLE(below(d, a), 0, real(d, a, f)); }
int rmdir(const char *a) { REAL(rmdir); WHOLE(below(AT_FDCWD, a), 0, real(a)); }
int mkdir(const char *a, mode_t m) { REAL(mkdir); WHOLE(below(AT_FDCWD, a), 1, real(a, m)); }
int mkdirat(int d, const char *a, mode_t m) { REAL(mkdirat); WHOLE(below(d, a), 1, real(d, a, m)); }
int chmod(const char *a, mode_t m) { REAL(chmod); WHOLE(below(AT_FDCWD, a), 0, real(a, m)); }
int fchmod(int d, mode_t m) { REAL(fchmod); WHOLE(below(d, NULL), 0, real(d, m)); }
int ftruncate(int d, off_t n) { REAL(ftruncate); WHOLE(below(d, NULL), 1, real(d, n)); }
int ftruncate64(int d, off64_t n) { REAL(ftruncate64); WHOLE(below(d, NULL), 1, real(d, n)); }

/* Only those that make or empty a file count. */
#define MODE(flags)                                                            \
    mode_t mode = 0;                                                           \
    if ((flags) & (O_CREAT | O_TMPFILE)) {                                     \
        va_list rest;                                                          \
        va_start(rest, flags);                                                 \
        mode = va_arg(rest, mode_t);                                           \
        va_end(rest);                                                          \
    }
#define MAKES(flags) ((flags) & (O_CREAT | O_TRUNC))

int open(const char *a, int flags, ...) { MODE(flags) REAL(open); WHOLE(MAKES(flags) && below(AT_FDCWD, a), 1, real(a, flags, mode)); }
int open64(const char *a, int flags, ...) { MODE(flags) REAL(open64); WHOLE(MAKES(flags) && below(AT_FDCWD, a), 1, real(a, flags, mode)); }
int openat(int d, const char *a, int flags, ...) { MODE(flags) REAL(openat); WHOLE(MAKES(flags) && below(d, a), 1, real(d, a, flags, mode)); }
int openat64(int d, const char *a, int flags, ...) { MODE(flags) REAL(openat64); WHOLE(MAKES(flags) && below(d, a), 1, real(d, a, flags, mode)); }

static FILE *opened(const char *a, const char *how, FILE *(*real)(const char *, const char *)) {
    if (!strpbrk(how, "wa") || !below(AT_FDCWD, a)) return real(a, how);
    int is_due = due("fopen");
    if (is_due && fault == DIE) die();
    if (is_due && fault == BROKEN) { errno = EIO; return NULL; }
    if (is_due && fault == FULL) full = 1;
    if (full) { errno = ENOSPC; return NULL; }
    return real(a, how);
}
FILE *fopen(const char *a, const char *how) { REAL(fopen); return opened(a, how, real); }
FILE *fopen64(const char *a, const char *how) { REAL(fopen64); return opened(a, how, real); }

/* Return how many bytes of a write the disk takes before what `failed` says: an error, or (-1) the end of the process. */
static size_t taken(int d, size_t size, int *failed) {
    *failed = 0;
    if (!below(d, NULL)) return size;
    int is_due = due("write");
    if (is_due && fault == DIE) die();
    if (is_due && fault == SHORT) return size > 1 ? size / 2 : size;
    if (is_due && fault != COUNT) {
        full = fault == FULL;
        *failed = fault == TORN ? -1 : fault == FULL ? ENOSPC : EIO;
        return size / 2;
    }
    if (full) *failed = ENOSPC;
    return full ? 0 : size;
}
static ssize_t told(ssize_t done, int failed) {
    if (failed < 0) die();
    if (failed) { errno = failed; return -1; }
    return done;
}

ssize_t write(int d, const void *data, size_t size) {
    REAL(write);
    int failed;
    size_t part = taken(d, size, &failed);
    return told(part || !size ? real(d, data, part) : 0, failed);
}
ssize_t pwrite(int d, const void *data, size_t size, off_t place) {
    REAL(pwrite);
    int failed;
    size_t part = taken(d, size, &failed);
    return told(part || !size ? real(d, data, part, place) : 0, failed);
}
ssize_t pwrite64(int d, const void *data, size_t size, off64_t place) {
    REAL(pwrite64);
    int failed;
    size_t part = taken(d, size, &failed);
    return told(part || !size ? real(d, data, part, place) : 0, failed);
}
ssize_t writev(int d, const struct iovec *pieces, int count) {
    REAL(writev);
    size_t size = 0;
    int failed;
    for (int i = 0; i < count; i++) size += pieces[i].iov_len;
    size_t part = taken(d, size, &failed);
    if (part == size) return told(real(d, pieces, count), failed);
    ssize_t done = 0;
    static ssize_t (*one)(int, const void *, size_t);
    if (!one) one = dlsym(RTLD_NEXT, "write");
    for (int i = 0; i < count && part; i++) {
        size_t some = pieces[i].iov_len < part ? pieces[i].iov_len : part;
        if (some) done += one(d, pieces[i].iov_base, some);
        part -= some;
    }
    return told(done, failed);
}
