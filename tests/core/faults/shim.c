/* Loaded before libc: fails, or kills the process, at the n-th operation that changes a folder's files. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum { OFF, COUNT, KILL, EIO_ONCE, FULL, POWER };

static int mode = OFF;
static long count, at;
static char root[4096];
static size_t root_length;
#define MOST 4096
static char watched[MOST]; /* file descriptors of files and folders within the root */
static int unsynced[MOST]; /* duplicates of those that were written to and not synced since */
static off_t synced[MOST]; /* how much of each is on the disk for sure */
static int unsynced_count;

#define REAL(type, name, ...)                                   \
    static type (*real)(__VA_ARGS__);                           \
    if (!real) real = (type(*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)

void faults_arm(const char *folder, int how, long when) {
    strncpy(root, folder, sizeof root - 1);
    root_length = strlen(root);
    count = 0;
    at = when;
    mode = how;
}

long faults_count(void) { return count; }

static int inside(int folder, const char *path) {
    if (mode == OFF || !path) return 0;
    if (path[0] == '/' || folder == AT_FDCWD)
        return !strncmp(path, root, root_length) && (path[root_length] == '/' || !path[root_length]);
    return folder >= 0 && folder < MOST && watched[folder];
}

static int within(int file) { return mode != OFF && file >= 0 && file < MOST && watched[file]; }

static void lose_unsynced(void) {
    for (int i = 0; i < unsynced_count; i++) {
        struct stat facts;
        if (!fstat(unsynced[i], &facts) && facts.st_size > synced[i])
            (void)!ftruncate(unsynced[i], synced[i] + (facts.st_size - synced[i]) / 2);
    }
}

/* Whether the operation fails, with errno set; grows: it needs room on the disk. */
static int fails(int grows) {
    long now = ++count;
    if (mode == COUNT || now < at) return 0;
    if ((mode == KILL || mode == POWER) && now == at) {
        int how = mode;
        mode = OFF;
        if (how == POWER) lose_unsynced();
        kill(getpid(), SIGKILL);
    }
    if (mode == EIO_ONCE && now == at) return errno = EIO, 1;
    if (mode == FULL && grows) return errno = ENOSPC, 1;
    return 0;
}

/* Bytes from `where` on are to be written: they, and what stands behind them, may be lost. */
static void dirty(int file, off_t where) {
    struct stat one, other;
    if (mode != POWER || fstat(file, &one)) return;
    off_t sure = where < one.st_size ? where : one.st_size;
    for (int i = 0; i < unsynced_count; i++)
        if (!fstat(unsynced[i], &other) && one.st_ino == other.st_ino) {
            if (sure < synced[i]) synced[i] = sure;
            return;
        }
    if (unsynced_count < MOST) {
        synced[unsynced_count] = sure;
        unsynced[unsynced_count++] = fcntl(file, F_DUPFD_CLOEXEC, 1024);
    }
}

static void clean(int file) {
    struct stat one, other;
    if (mode != POWER || fstat(file, &one)) return;
    for (int i = 0; i < unsynced_count; i++)
        if (!fstat(unsynced[i], &other) && one.st_ino == other.st_ino) {
            close(unsynced[i]);
            synced[i] = synced[--unsynced_count];
            unsynced[i--] = unsynced[unsynced_count];
        }
}

static int opened(int file, int ours) {
    if (file >= 0 && file < MOST) watched[file] = ours;
    return file;
}

#define CHANGES(flags) ((flags) & (O_CREAT | O_TRUNC | O_WRONLY | O_RDWR))

#define OPEN(name, first, folder, ...)                                      \
    int name first {                                                        \
        REAL(int, #name, __VA_ARGS__);                                      \
        va_list rest;                                                       \
        va_start(rest, flags);                                              \
        mode_t bits = va_arg(rest, mode_t);                                 \
        va_end(rest);                                                       \
        int ours = inside(folder, path);                                    \
        if (ours && CHANGES(flags) && fails(!!(flags & O_CREAT))) return -1; \
        return opened(CALL, ours);                                          \
    }

#define CALL real(path, flags, bits)
OPEN(open, (const char *path, int flags, ...), AT_FDCWD, const char *, int, ...)
OPEN(open64, (const char *path, int flags, ...), AT_FDCWD, const char *, int, ...)
#undef CALL
#define CALL real(folder, path, flags, bits)
OPEN(openat, (int folder, const char *path, int flags, ...), folder, int, const char *, int, ...)
OPEN(openat64, (int folder, const char *path, int flags, ...), folder, int, const char *, int, ...)
#undef CALL

#define FOPEN(name)                                                 \
    FILE *name(const char *path, const char *how) {                 \
        REAL(FILE *, #name, const char *, const char *);            \
        int ours = inside(AT_FDCWD, path);                          \
        if (ours && strpbrk(how, "wa+") && fails(1)) return NULL;   \
        FILE *stream = real(path, how);                             \
        if (stream) opened(fileno(stream), ours);                   \
        return stream;                                              \
    }
FOPEN(fopen)
FOPEN(fopen64)

int close(int file) {
    REAL(int, "close", int);
    if (file >= 0 && file < MOST) watched[file] = 0;
    return real(file);
}

ssize_t write(int file, const void *bytes, size_t size) {
    REAL(ssize_t, "write", int, const void *, size_t);
    if (within(file)) {
        if (mode == FULL && count + 1 == at && size > 1) { /* the last bytes that fit */
            ++count;
            return real(file, bytes, size / 2);
        }
        if (fails(1)) return -1;
        dirty(file, lseek(file, 0, SEEK_CUR));
    }
    return real(file, bytes, size);
}

#define PWRITE(name, kind)                                                     \
    ssize_t name(int file, const void *bytes, size_t size, kind where) {       \
        REAL(ssize_t, #name, int, const void *, size_t, kind);                 \
        if (within(file)) {                                                    \
            if (fails(1)) return -1;                                           \
            dirty(file, where);                                                \
        }                                                                      \
        return real(file, bytes, size, where);                                 \
    }
PWRITE(pwrite, off_t)
PWRITE(pwrite64, off64_t)

ssize_t writev(int file, const struct iovec *parts, int number) {
    REAL(ssize_t, "writev", int, const struct iovec *, int);
    if (within(file)) {
        if (fails(1)) return -1;
        dirty(file, lseek(file, 0, SEEK_CUR));
    }
    return real(file, parts, number);
}

#define SYNC(name)                                  \
    int name(int file) {                            \
        REAL(int, #name, int);                      \
        if (within(file) && fails(0)) return -1;    \
        if (within(file)) clean(file);              \
        return real(file);                          \
    }
SYNC(fsync)
SYNC(fdatasync)

#define TRUNCATE(name, kind)                        \
    int name(int file, kind size) {                 \
        REAL(int, #name, int, kind);                \
        if (within(file) && fails(0)) return -1;    \
        return real(file, size);                    \
    }
TRUNCATE(ftruncate, off_t)
TRUNCATE(ftruncate64, off64_t)

int rename(const char *from, const char *to) {
    REAL(int, "rename", const char *, const char *);
    if ((inside(AT_FDCWD, from) || inside(AT_FDCWD, to)) && fails(0)) return -1;
    return real(from, to);
}

int renameat(int a, const char *from, int b, const char *to) {
    REAL(int, "renameat", int, const char *, int, const char *);
    if ((inside(a, from) || inside(b, to)) && fails(0)) return -1;
    return real(a, from, b, to);
}

#define PATH(name, grows)                                       \
    int name(const char *path) {                                \
        REAL(int, #name, const char *);                         \
        if (inside(AT_FDCWD, path) && fails(grows)) return -1;  \
        return real(path);                                      \
    }
PATH(unlink, 0)
PATH(rmdir, 0)

int unlinkat(int folder, const char *path, int flags) {
    REAL(int, "unlinkat", int, const char *, int);
    if (inside(folder, path) && fails(0)) return -1;
    return real(folder, path, flags);
}

int mkdir(const char *path, mode_t bits) {
    REAL(int, "mkdir", const char *, mode_t);
    if (inside(AT_FDCWD, path) && fails(1)) return -1;
    return real(path, bits);
}

int mkdirat(int folder, const char *path, mode_t bits) {
    REAL(int, "mkdirat", int, const char *, mode_t);
    if (inside(folder, path) && fails(1)) return -1;
    return real(folder, path, bits);
}
