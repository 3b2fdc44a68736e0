/* Records the file operations below one directory, and fails or ends the process at the n-th of them.

   For LD_PRELOAD on Linux. `arm` starts it; before that, and in every program that the process executes, all calls
   pass through. A record is written after its operation succeeded and under the same lock, so that the records are in
   the order in which the operations happened. Calls that bypass the C library are not seen; the tests compare the
   directory that the records lead to with the real one. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

/* The first letters are read by disk.py. */
enum operation { CREATE = 'c', TRUNCATE = 't', WRITE = 'w', SYNC = 's', RENAME = 'r', EXCHANGE = 'x', LINK = 'l',
                 MAKE = 'm', UNLINK = 'u', REMOVE = 'd', FAILED = '!' };
enum fault { NONE, KILL, TEAR, EIO_ONCE, FULL };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char directory[PATH_MAX];
static size_t directory_length; /* 0: not armed. */
static enum fault fault;
static long point, count;
static int records = -1;

/* Called through ctypes, in the process that is to be tested. */
void arm(const char *below, int kind, long at, const char *log) {
    snprintf(directory, sizeof directory, "%s", below);
    fault = kind, point = at, count = 0;
    records = syscall(SYS_openat, AT_FDCWD, log, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0644);
    if (records < 0) abort();
    directory_length = strlen(directory);
}

static void die(void) {
    kill(getpid(), SIGKILL);
    for (;;) pause();
}

static int watched(const char *path) {
    if (!directory_length || strncmp(path, directory, directory_length)) return 0;
    return path[directory_length] == '/' || !path[directory_length];
}

static int path_of(int descriptor, char *path) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t length = readlink(link, path, PATH_MAX - 1);
    path[length < 0 ? 0 : length] = 0;
    return length >= 0;
}

static void absolute(int base, const char *name, char *path) {
    path[0] = 0;
    if (!directory_length || !name) return;
    if (name[0] == '/') {
        snprintf(path, PATH_MAX, "%s", name);
        return;
    }
    if (base == AT_FDCWD ? !getcwd(path, PATH_MAX) : !path_of(base, path)) return;
    size_t length = strlen(path);
    snprintf(path + length, PATH_MAX - length, "/%s", name);
}

static void record(enum operation operation, uint64_t inode, int64_t offset, const char *path, const char *other,
                   const void *data, size_t size) {
    struct { uint64_t operation, inode, paths[2], offset, size; } head = {
        operation, inode, {strlen(path), strlen(other)}, offset, size};
    struct iovec parts[] = {{&head, sizeof head}, {(void *)path, head.paths[0]}, {(void *)other, head.paths[1]},
                            {(void *)data, size}};
    ssize_t total = sizeof head + head.paths[0] + head.paths[1] + size;
    if (syscall(SYS_writev, records, parts, 4) != total) abort();
}

/* Locks, counts and applies the fault. 0: go on, and call `finish`; -1: fail with errno, and do not call it. */
static int begin(enum operation operation, const char *path) {
    pthread_mutex_lock(&lock);
    long number = ++count;
    /* A write is torn by `put`. */
    if (number == point && (fault == KILL || (fault == TEAR && operation != WRITE))) die();
    int frees = operation == UNLINK || operation == REMOVE || operation == RENAME || operation == SYNC;
    int error = fault == EIO_ONCE && number == point ? EIO : fault == FULL && number >= point && !frees ? ENOSPC : 0;
    if (!error) return 0;
    record(FAILED, operation, error, path, "", 0, 0);
    pthread_mutex_unlock(&lock);
    errno = error;
    return -1;
}

/* Unlocks; errno stays that of the operation. */
static void finish(void) {
    int error = errno;
    pthread_mutex_unlock(&lock);
    errno = error;
}

static uint64_t inode_of(int descriptor) {
    struct stat status;
    return fstat(descriptor, &status) ? 0 : status.st_ino;
}

#define REAL(name) static __typeof__(name) *real; if (!real) real = dlsym(RTLD_NEXT, #name)

/* Operations on names. */

static int named(enum operation operation, int result, const char *path, const char *other) {
    if (!result) record(operation, 0, 0, path, other, 0, 0);
    finish();
    return result;
}

#define ON_NAME(operation, base, name, call) \
    char path[PATH_MAX]; \
    absolute(base, name, path); \
    if (!watched(path)) return call; \
    if (begin(operation, path)) return -1; \
    return named(operation, call, path, "")

int mkdir(const char *name, mode_t mode) { REAL(mkdir); ON_NAME(MAKE, AT_FDCWD, name, real(name, mode)); }
int mkdirat(int base, const char *name, mode_t mode) { REAL(mkdirat); ON_NAME(MAKE, base, name, real(base, name, mode)); }
int unlink(const char *name) { REAL(unlink); ON_NAME(UNLINK, AT_FDCWD, name, real(name)); }
int rmdir(const char *name) { REAL(rmdir); ON_NAME(REMOVE, AT_FDCWD, name, real(name)); }
int unlinkat(int base, const char *name, int flags) {
    REAL(unlinkat);
    enum operation operation = flags & AT_REMOVEDIR ? REMOVE : UNLINK;
    ON_NAME(operation, base, name, real(base, name, flags));
}
int remove(const char *name) {
    struct stat status;
    return !lstat(name, &status) && S_ISDIR(status.st_mode) ? rmdir(name) : unlink(name);
}

#define ON_NAMES(operation, from_base, from, to_base, to, call) \
    char path[PATH_MAX], other[PATH_MAX]; \
    absolute(from_base, from, path); \
    absolute(to_base, to, other); \
    if (!watched(path) && !watched(other)) return call; \
    if (begin(operation, path)) return -1; \
    return named(operation, call, path, other)

int rename(const char *from, const char *to) {
    REAL(rename);
    ON_NAMES(RENAME, AT_FDCWD, from, AT_FDCWD, to, real(from, to));
}
int renameat(int from_base, const char *from, int to_base, const char *to) {
    REAL(renameat);
    ON_NAMES(RENAME, from_base, from, to_base, to, real(from_base, from, to_base, to));
}
int renameat2(int from_base, const char *from, int to_base, const char *to, unsigned flags) {
    REAL(renameat2);
    enum operation operation = flags & RENAME_EXCHANGE ? EXCHANGE : RENAME;
    ON_NAMES(operation, from_base, from, to_base, to, real(from_base, from, to_base, to, flags));
}
int link(const char *from, const char *to) {
    REAL(link);
    ON_NAMES(LINK, AT_FDCWD, from, AT_FDCWD, to, real(from, to));
}
int linkat(int from_base, const char *from, int to_base, const char *to, int flags) {
    REAL(linkat);
    ON_NAMES(LINK, from_base, from, to_base, to, real(from_base, from, to_base, to, flags));
}

/* Files that are created or emptied. */

static int opened(int descriptor, int absent, int flags, const char *path) {
    if (descriptor >= 0 && absent) record(CREATE, inode_of(descriptor), 0, path, "", 0, 0);
    else if (descriptor >= 0 && flags & O_TRUNC) record(TRUNCATE, inode_of(descriptor), 0, path, "", 0, 0);
    finish();
    return descriptor;
}

#define OPEN(base, name, call) \
    mode_t mode = 0; \
    if (flags & (O_CREAT | O_TMPFILE)) { \
        va_list arguments; \
        va_start(arguments, flags); \
        mode = va_arg(arguments, mode_t); \
        va_end(arguments); \
    } \
    char path[PATH_MAX]; \
    if (!directory_length || !(flags & (O_CREAT | O_TRUNC))) return call; \
    absolute(base, name, path); \
    struct stat status; \
    int absent = lstat(path, &status) != 0; \
    if (!watched(path) || !(absent || flags & O_TRUNC)) return call; \
    if (begin(absent ? CREATE : TRUNCATE, path)) return -1; \
    return opened(call, absent, flags, path)

int open(const char *name, int flags, ...) { REAL(open); OPEN(AT_FDCWD, name, real(name, flags, mode)); }
int open64(const char *name, int flags, ...) { REAL(open64); OPEN(AT_FDCWD, name, real(name, flags, mode)); }
int openat(int base, const char *name, int flags, ...) { REAL(openat); OPEN(base, name, real(base, name, flags, mode)); }
int openat64(int base, const char *name, int flags, ...) { REAL(openat64); OPEN(base, name, real(base, name, flags, mode)); }
int creat(const char *name, mode_t mode) { return open(name, O_CREAT | O_WRONLY | O_TRUNC, mode); }
int creat64(const char *name, mode_t mode) { return open64(name, O_CREAT | O_WRONLY | O_TRUNC, mode); }

/* Operations on descriptors. */

static int resized(int result, int descriptor, int64_t size, const char *path) {
    if (!result) record(TRUNCATE, inode_of(descriptor), size, path, "", 0, 0);
    finish();
    return result;
}

#define ON_DESCRIPTOR(descriptor, operation, call) \
    char path[PATH_MAX]; \
    if (!directory_length || !path_of(descriptor, path) || !watched(path)) return call; \
    if (begin(operation, path)) return -1

int ftruncate(int descriptor, off_t size) {
    REAL(ftruncate);
    ON_DESCRIPTOR(descriptor, TRUNCATE, real(descriptor, size));
    return resized(real(descriptor, size), descriptor, size, path);
}
int ftruncate64(int descriptor, off64_t size) {
    REAL(ftruncate64);
    ON_DESCRIPTOR(descriptor, TRUNCATE, real(descriptor, size));
    return resized(real(descriptor, size), descriptor, size, path);
}

static int synced(int result, int descriptor, const char *path) {
    if (!result) record(SYNC, inode_of(descriptor), 0, path, "", 0, 0);
    finish();
    return result;
}

int fsync(int descriptor) {
    REAL(fsync);
    ON_DESCRIPTOR(descriptor, SYNC, real(descriptor));
    return synced(real(descriptor), descriptor, path);
}
int fdatasync(int descriptor) {
    REAL(fdatasync);
    ON_DESCRIPTOR(descriptor, SYNC, real(descriptor));
    return synced(real(descriptor), descriptor, path);
}

/* All ways of writing become one `pwrite` or `write` of the bytes in one piece. */
static ssize_t put(int descriptor, const void *bytes, size_t size, int64_t offset, int positioned, const char *path) {
    static ssize_t (*write_at)(int, const void *, size_t, off64_t);
    static ssize_t (*write_on)(int, const void *, size_t);
    if (!write_at) write_at = dlsym(RTLD_NEXT, "pwrite64");
    if (!write_on) write_on = dlsym(RTLD_NEXT, "write");
    int torn = fault == TEAR && count == point;
    size_t part = torn ? size / 2 : size;
    /* Appended to, a file is written at its end wherever the position is. */
    struct stat status;
    int appends = fcntl(descriptor, F_GETFL) & O_APPEND && !fstat(descriptor, &status);
    int64_t start = appends ? status.st_size : positioned ? offset : lseek64(descriptor, 0, SEEK_CUR);
    ssize_t written = positioned ? write_at(descriptor, bytes, part, offset) : write_on(descriptor, bytes, part);
    if (written > 0) record(WRITE, inode_of(descriptor), start, path, "", bytes, written);
    if (torn) die();
    finish();
    return written;
}

static ssize_t put_parts(int descriptor, const struct iovec *parts, int number, int64_t offset, int positioned,
                         const char *path) {
    size_t size = 0, at = 0;
    for (int i = 0; i < number; i++) size += parts[i].iov_len;
    char *bytes = malloc(size ? size : 1);
    if (!bytes) abort();
    for (int i = 0; i < number; at += parts[i++].iov_len) memcpy(bytes + at, parts[i].iov_base, parts[i].iov_len);
    ssize_t written = put(descriptor, bytes, size, offset, positioned, path);
    free(bytes);
    return written;
}

ssize_t write(int descriptor, const void *bytes, size_t size) {
    REAL(write);
    ON_DESCRIPTOR(descriptor, WRITE, real(descriptor, bytes, size));
    return put(descriptor, bytes, size, 0, 0, path);
}
ssize_t pwrite(int descriptor, const void *bytes, size_t size, off_t offset) {
    REAL(pwrite);
    ON_DESCRIPTOR(descriptor, WRITE, real(descriptor, bytes, size, offset));
    return put(descriptor, bytes, size, offset, 1, path);
}
ssize_t pwrite64(int descriptor, const void *bytes, size_t size, off64_t offset) {
    REAL(pwrite64);
    ON_DESCRIPTOR(descriptor, WRITE, real(descriptor, bytes, size, offset));
    return put(descriptor, bytes, size, offset, 1, path);
}
ssize_t writev(int descriptor, const struct iovec *parts, int number) {
    REAL(writev);
    ON_DESCRIPTOR(descriptor, WRITE, real(descriptor, parts, number));
    return put_parts(descriptor, parts, number, 0, 0, path);
}
ssize_t pwritev(int descriptor, const struct iovec *parts, int number, off_t offset) {
    REAL(pwritev);
    ON_DESCRIPTOR(descriptor, WRITE, real(descriptor, parts, number, offset));
    return put_parts(descriptor, parts, number, offset, 1, path);
}
ssize_t pwritev64(int descriptor, const struct iovec *parts, int number, off64_t offset) {
    REAL(pwritev64);
    ON_DESCRIPTOR(descriptor, WRITE, real(descriptor, parts, number, offset));
    return put_parts(descriptor, parts, number, offset, 1, path);
}

/* Copies inside of the kernel show no bytes. Callers must be ready for the refusal, and copy by writing. */
#define REFUSED(descriptor, call) \
    char path[PATH_MAX]; \
    if (!directory_length || !path_of(descriptor, path) || !watched(path)) return call; \
    errno = EINVAL; \
    return -1

ssize_t sendfile(int out, int in, off_t *offset, size_t size) { REAL(sendfile); REFUSED(out, real(out, in, offset, size)); }
ssize_t sendfile64(int out, int in, off64_t *offset, size_t size) { REAL(sendfile64); REFUSED(out, real(out, in, offset, size)); }
ssize_t copy_file_range(int in, off64_t *from, int out, off64_t *to, size_t size, unsigned flags) {
    REAL(copy_file_range);
    REFUSED(out, real(in, from, out, to, size, flags));
}
