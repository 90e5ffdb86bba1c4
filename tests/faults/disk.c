/* A disk that fails on command and remembers what it was told, between a program and the kernel (LD_PRELOAD).
 *
 * For files below the folder DISK_FOLDER it makes calls fail as the orders in DISK_ORDERS say, a small file that the
 * test and this library share by mmap. With DISK_JOURNAL it also writes down every change of a file, every sync, and
 * every byte that leaves by a socket, in their one order: from that a test makes the directory as a loss of power
 * could have left it, and knows what had been promised by then. It never changes what a call does that succeeds.
 * SQLite's shared memory (-shm) is left alone: no loss of power keeps it.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

/* open.c's own header must not rename what is defined here. */
#undef open
#undef open64

enum { NONE, FULL, BAD_WRITE, BAD_SYNC, READ_ONLY, BAD_READ };
enum { FDS_MAX = 65536, PATH_BYTES_MAX = 4096 };

struct orders {
    volatile uint32_t fault;
    volatile uint32_t after; /* calls that still work before the first that fails */
    volatile uint32_t times; /* calls that still fail; UINT32_MAX: until it is lifted */
    volatile uint32_t hits;  /* calls that have failed */
    volatile uint32_t journal_entries;
};

/* One entry; `length` bytes of data follow. `file` is an inode's number, or the other end's port of a socket. */
struct entry {
    uint8_t kind;
    uint8_t failed;
    uint16_t reserved;
    uint32_t length;
    uint64_t file;
    int64_t offset;
};

enum kind { FILE_KIND = 1, FOLDER_KIND };
static struct { uint8_t kind; uint64_t file; } fds[FDS_MAX];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct orders *orders;
static const char *folder;
static size_t folder_length;
static int journal = -1;

#define REAL(name) ((__typeof__(&name))real(#name))
static void *real(const char *name) { return dlsym(RTLD_NEXT, name); }

static int raw_open(const char *path, int flags, mode_t mode) {
    int (*call)(const char *, int, ...) = real("open64");
    return call(path, flags, mode);
}

__attribute__((constructor)) static void start(void) {
    folder = getenv("DISK_FOLDER");
    folder_length = folder ? strlen(folder) : 0;
    const char *path = getenv("DISK_ORDERS");
    if (folder && path) {
        int fd = raw_open(path, O_RDWR | O_CLOEXEC, 0);
        void *mapped = fd < 0 ? MAP_FAILED : mmap(NULL, sizeof *orders, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        if (mapped == MAP_FAILED) {
            fprintf(stderr, "disk.c: cannot read DISK_ORDERS\n");
            abort();
        }
        orders = mapped;
        REAL(close)(fd);
    }
    path = getenv("DISK_JOURNAL");
    if (folder && path) {
        journal = raw_open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
        if (journal < 0) {
            fprintf(stderr, "disk.c: cannot write DISK_JOURNAL\n");
            abort();
        }
    }
}

static int ends_with(const char *path, const char *end) {
    size_t length = strlen(path), end_length = strlen(end);
    return length >= end_length && strcmp(path + length - end_length, end) == 0;
}

static int is_watched(const char *path) {
    return folder_length && strncmp(path, folder, folder_length) == 0
        && (path[folder_length] == '/' || path[folder_length] == '\0') && !ends_with(path, "-shm");
}

static int is_kind(int fd, uint8_t kind) { return fd >= 0 && fd < FDS_MAX && fds[fd].kind == kind; }

/* Whether this call is to fail. Called with the lock. */
static int fails(uint32_t fault) {
    if (!orders || orders->fault != fault) return 0;
    if (orders->after > 0) {
        orders->after--;
        return 0;
    }
    if (orders->times == 0) return 0;
    if (orders->times != UINT32_MAX) orders->times--;
    orders->hits++;
    return 1;
}

static void note(char kind, uint64_t file, int64_t offset, const void *data, size_t length, int failed) {
    if (journal < 0) return;
    struct entry entry = { .kind = (uint8_t)kind, .failed = (uint8_t)failed, .length = (uint32_t)length,
                           .file = file, .offset = offset };
    struct iovec parts[2] = { { &entry, sizeof entry }, { (void *)data, length } };
    ssize_t (*call)(int, const struct iovec *, int) = real("writev");
    if (call(journal, parts, length ? 2 : 1) != (ssize_t)(sizeof entry + length)) abort();
    if (orders) orders->journal_entries++;
}

/* ---- Names ---- */

static int open_watched(const char *path, int flags, mode_t mode) {
    struct stat status;
    pthread_mutex_lock(&lock);
    int changes = (flags & O_ACCMODE) != O_RDONLY || flags & (O_CREAT | O_TRUNC);
    int is_new = flags & O_CREAT && lstat(path, &status) != 0;
    int fd = -1;
    if (changes && fails(READ_ONLY)) {
        errno = EROFS;
    } else if (is_new && fails(FULL)) {
        errno = ENOSPC;
    } else {
        fd = raw_open(path, flags, mode);
    }
    if (fd >= 0 && fd < FDS_MAX && fstat(fd, &status) == 0) {
        fds[fd].kind = S_ISDIR(status.st_mode) ? FOLDER_KIND : FILE_KIND;
        fds[fd].file = status.st_ino;
        const char *name = path + folder_length + (path[folder_length] == '/');
        if (fds[fd].kind == FILE_KIND) note('O', status.st_ino, is_new, name, strlen(name), 0);
        if (flags & O_TRUNC) note('T', status.st_ino, 0, NULL, 0, 0);
    }
    pthread_mutex_unlock(&lock);
    return fd;
}

static int open_any(const char *path, int flags, mode_t mode) {
    if (is_watched(path)) return open_watched(path, flags, mode);
    int fd = raw_open(path, flags, mode);
    if (fd >= 0 && fd < FDS_MAX) fds[fd].kind = 0;
    return fd;
}

#define MODE(flags) \
    mode_t mode = 0; \
    if ((flags) & (O_CREAT | O_TMPFILE)) { \
        va_list rest; \
        va_start(rest, flags); \
        mode = va_arg(rest, mode_t); \
        va_end(rest); \
    }

int open(const char *path, int flags, ...) { MODE(flags) return open_any(path, flags, mode); }
int open64(const char *path, int flags, ...) { MODE(flags) return open_any(path, flags, mode); }

int openat64(int at, const char *path, int flags, ...) {
    MODE(flags)
    if (at == AT_FDCWD || path[0] == '/') return open_any(path, flags, mode);
    int (*call)(int, const char *, int, ...) = real("openat64");
    return call(at, path, flags, mode);
}
int openat(int at, const char *path, int flags, ...) { MODE(flags) return openat64(at, path, flags, mode); }

int close(int fd) {
    if (fd >= 0 && fd < FDS_MAX) fds[fd].kind = 0;
    return REAL(close)(fd);
}

int unlink(const char *path) {
    if (!is_watched(path)) return REAL(unlink)(path);
    pthread_mutex_lock(&lock);
    int result = -1;
    if (fails(READ_ONLY)) errno = EROFS;
    else result = REAL(unlink)(path);
    const char *name = path + folder_length + 1;
    if (result == 0) note('U', 0, 0, name, strlen(name), 0);
    pthread_mutex_unlock(&lock);
    return result;
}

int rename(const char *from, const char *to) {
    if (!is_watched(from) || !is_watched(to)) return REAL(rename)(from, to);
    char names[2 * PATH_BYTES_MAX];
    pthread_mutex_lock(&lock);
    int result = -1;
    if (fails(READ_ONLY)) errno = EROFS;
    else result = REAL(rename)(from, to);
    int length = snprintf(names, sizeof names, "%s%c%s", from + folder_length + 1, 0, to + folder_length + 1);
    if (result == 0) note('R', 0, 0, names, (size_t)length, 0);
    pthread_mutex_unlock(&lock);
    return result;
}

/* ---- Contents ---- */

/* 0 if the call may be made, else -1 with errno. Called with the lock. */
static int may_write(int fd, int64_t end) {
    struct stat status;
    int grows = fstat(fd, &status) == 0 && end > status.st_size;
    if (fails(READ_ONLY)) errno = EROFS;
    else if (fails(BAD_WRITE)) errno = EIO;
    else if (grows && fails(FULL)) errno = ENOSPC;
    else return 0;
    return -1;
}

static ssize_t write_at(int fd, const void *data, size_t length, int64_t offset) {
    pthread_mutex_lock(&lock);
    ssize_t (*call)(int, const void *, size_t, int64_t) = real("pwrite64");
    ssize_t written = may_write(fd, offset + (int64_t)length) ? -1 : call(fd, data, length, offset);
    if (written > 0) note('W', fds[fd].file, offset, data, (size_t)written, 0);
    pthread_mutex_unlock(&lock);
    return written;
}

ssize_t pwrite(int fd, const void *data, size_t length, off_t offset) {
    return is_kind(fd, FILE_KIND) ? write_at(fd, data, length, offset) : REAL(pwrite)(fd, data, length, offset);
}
ssize_t pwrite64(int fd, const void *data, size_t length, off64_t offset) {
    return is_kind(fd, FILE_KIND) ? write_at(fd, data, length, offset) : REAL(pwrite64)(fd, data, length, offset);
}

static int truncate_to(int fd, int64_t size) {
    pthread_mutex_lock(&lock);
    int (*call)(int, int64_t) = real("ftruncate64");
    int result = may_write(fd, size) ? -1 : call(fd, size);
    if (result == 0) note('T', fds[fd].file, size, NULL, 0, 0);
    pthread_mutex_unlock(&lock);
    return result;
}

int ftruncate(int fd, off_t size) {
    return is_kind(fd, FILE_KIND) ? truncate_to(fd, size) : REAL(ftruncate)(fd, size);
}
int ftruncate64(int fd, off64_t size) {
    return is_kind(fd, FILE_KIND) ? truncate_to(fd, size) : REAL(ftruncate64)(fd, size);
}

/* Others go on while a sync runs: what they change meanwhile is not part of it. */
static int sync_file(int fd, int (*call)(int)) {
    pthread_mutex_lock(&lock);
    int failed = fails(BAD_SYNC);
    note('B', fds[fd].file, 0, NULL, 0, 0);
    pthread_mutex_unlock(&lock);
    int result = failed ? -1 : call(fd);
    pthread_mutex_lock(&lock);
    note(is_kind(fd, FOLDER_KIND) ? 'D' : 'F', fds[fd].file, 0, NULL, 0, result != 0);
    pthread_mutex_unlock(&lock);
    if (failed) errno = EIO;
    return result;
}

static int is_ours(int fd) { return is_kind(fd, FILE_KIND) || is_kind(fd, FOLDER_KIND); }
int fsync(int fd) { return is_ours(fd) ? sync_file(fd, REAL(fsync)) : REAL(fsync)(fd); }
int fdatasync(int fd) { return is_ours(fd) ? sync_file(fd, REAL(fdatasync)) : REAL(fdatasync)(fd); }

static int may_read(int fd) {
    if (!is_kind(fd, FILE_KIND)) return 1;
    pthread_mutex_lock(&lock);
    int failed = fails(BAD_READ);
    pthread_mutex_unlock(&lock);
    if (failed) errno = EIO;
    return !failed;
}

ssize_t pread(int fd, void *data, size_t length, off_t offset) {
    return may_read(fd) ? REAL(pread)(fd, data, length, offset) : -1;
}
ssize_t pread64(int fd, void *data, size_t length, off64_t offset) {
    return may_read(fd) ? REAL(pread64)(fd, data, length, offset) : -1;
}

/* ---- What leaves: sent and written down in one step, so that no later change can be taken for an earlier one ---- */

static uint64_t port_of(int fd) {
    struct sockaddr_storage peer;
    socklen_t length = sizeof peer;
    if (getpeername(fd, (struct sockaddr *)&peer, &length) != 0) return 0;
    if (peer.ss_family == AF_INET) return ntohs(((struct sockaddr_in *)&peer)->sin_port);
    return peer.ss_family == AF_INET6 ? ntohs(((struct sockaddr_in6 *)&peer)->sin6_port) : 0;
}

ssize_t send(int fd, const void *data, size_t length, int flags) {
    uint64_t port = journal >= 0 ? port_of(fd) : 0;
    if (!port) return REAL(send)(fd, data, length, flags);
    pthread_mutex_lock(&lock);
    ssize_t sent = REAL(send)(fd, data, length, flags | MSG_DONTWAIT);
    if (sent > 0) note('S', port, 0, data, (size_t)sent, 0);
    pthread_mutex_unlock(&lock);
    return sent;
}

ssize_t write(int fd, const void *data, size_t length) {
    if (is_kind(fd, FILE_KIND)) {
        off64_t offset = lseek64(fd, 0, SEEK_CUR);
        ssize_t written = write_at(fd, data, length, offset);
        if (written > 0) lseek64(fd, offset + written, SEEK_SET);
        return written;
    }
    return REAL(write)(fd, data, length);
}
