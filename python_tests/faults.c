/* Faults of the disk for one process and its children: loaded with LD_PRELOAD it counts the calls that concern files
   below a folder, and stops the process or fails the call at a chosen one.

   FAULT_FOLDER  absolute path without links; calls elsewhere are not touched
   FAULT_TRACE   a file outside of it that gets a line "call path" for every counted call
   FAULT_AT      number of the first call to hit, from 1; each process counts for itself
   FAULT_COUNT   how many are hit from there on; 1 unless given, 0 is all
   FAULT_DO      kill: SIGKILL instead of the call; torn: half of a write, then SIGKILL; short: half of a write;
                 or the number of the error that the call returns
*/
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static const char *folder, *action, *trace;
static long first, count;
static atomic_long calls;

__attribute__((constructor)) static void start(void) {
  folder = getenv("FAULT_FOLDER");
  action = getenv("FAULT_DO");
  trace = getenv("FAULT_TRACE");
  const char *at = getenv("FAULT_AT"), *many = getenv("FAULT_COUNT");
  first = at ? atol(at) : 0;
  count = many ? atol(many) : 1;
}

static void die(void) {
  kill(getpid(), SIGKILL);
  pause();
}

/* Does the path lie in the folder? A path beside it that only begins with the same letters does not. */
static int below(const char *path) {
  size_t length = strlen(folder);
  return strncmp(path, folder, length) == 0 && (path[length] == '/' || path[length] == 0);
}

static int path_of(int file, char *path) {
  char link[40];
  snprintf(link, sizeof link, "/proc/self/fd/%d", file);
  ssize_t length = readlink(link, path, PATH_MAX - 1);
  if (length < 0) return 0;
  path[length] = 0;
  return 1;
}

static int resolve(int base, const char *name, char *path) {
  char start[PATH_MAX];
  if (name[0] == '/') return snprintf(path, PATH_MAX, "%s", name) < PATH_MAX;
  if (base == AT_FDCWD ? !getcwd(start, sizeof start) : !path_of(base, start)) return 0;
  if (strcmp(name, ".") == 0) return snprintf(path, PATH_MAX, "%s", start) < PATH_MAX;
  return snprintf(path, PATH_MAX, "%s/%s", start, name) < PATH_MAX;
}

static void note(const char *call, const char *path) {
  char line[PATH_MAX + 32];
  int length = snprintf(line, sizeof line, "%s %s\n", call, path);
  int file = syscall(SYS_openat, AT_FDCWD, trace, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0666);
  if (file >= 0) {
    syscall(SYS_write, file, line, length);
    syscall(SYS_close, file);
  }
}

enum { GO, FAIL, HALF, HALF_THEN_DIE };

/* What to do with a call: it is counted when its path lies in the folder. */
static int verdict(const char *call, const char *path, int writes) {
  if (!folder || !below(path)) return GO;
  long number = atomic_fetch_add(&calls, 1) + 1;
  if (trace) note(call, path);
  if (!action || first <= 0 || number < first || (count && number >= first + count)) return GO;
  if (strcmp(action, "kill") == 0) die();
  if (strcmp(action, "torn") == 0) {
    if (writes) return HALF_THEN_DIE;
    die();
  }
  if (strcmp(action, "short") == 0) return writes ? HALF : GO;
  errno = atoi(action);
  return FAIL;
}

static int named(const char *call, int base, const char *name) {
  char path[PATH_MAX];
  int saved = errno;
  if (!folder || !name || !resolve(base, name, path)) return GO;
  errno = saved;
  return verdict(call, path, 0);
}

static int opened(const char *call, int file, int writes) {
  char path[PATH_MAX];
  int saved = errno;
  if (!folder || !path_of(file, path)) return GO;
  errno = saved;
  return verdict(call, path, writes);
}

#define REAL(name) ((__typeof__(&name))real(#name))
static void *real(const char *name) { return dlsym(RTLD_NEXT, name); }

#define OPEN(name)                                        \
  int name(const char *path, int flags, ...) {            \
    va_list more;                                         \
    va_start(more, flags);                                \
    mode_t mode = va_arg(more, mode_t);                   \
    va_end(more);                                         \
    if (named("open", AT_FDCWD, path) == FAIL) return -1; \
    return REAL(name)(path, flags, mode);                 \
  }
OPEN(open)
OPEN(open64)

#define OPENAT(name)                                    \
  int name(int base, const char *path, int flags, ...) { \
    va_list more;                                        \
    va_start(more, flags);                               \
    mode_t mode = va_arg(more, mode_t);                  \
    va_end(more);                                        \
    if (named("open", base, path) == FAIL) return -1;    \
    return REAL(name)(base, path, flags, mode);          \
  }
OPENAT(openat)
OPENAT(openat64)

ssize_t write(int file, const void *data, size_t size) {
  int what = opened("write", file, 1);
  if (what == FAIL) return -1;
  if (what == GO || size < 2) return REAL(write)(file, data, size);
  ssize_t done = REAL(write)(file, data, size / 2);
  if (what == HALF_THEN_DIE) die();
  return done;
}

#define PWRITE(name)                                                    \
  ssize_t name(int file, const void *data, size_t size, off_t offset) { \
    int what = opened("pwrite", file, 1);                               \
    if (what == FAIL) return -1;                                        \
    if (what == GO || size < 2) return REAL(name)(file, data, size, offset); \
    ssize_t done = REAL(name)(file, data, size / 2, offset);            \
    if (what == HALF_THEN_DIE) die();                                   \
    return done;                                                        \
  }
PWRITE(pwrite)
PWRITE(pwrite64)

int fsync(int file) { return opened("fsync", file, 0) == FAIL ? -1 : REAL(fsync)(file); }
int fdatasync(int file) { return opened("fdatasync", file, 0) == FAIL ? -1 : REAL(fdatasync)(file); }
int ftruncate(int file, off_t size) { return opened("ftruncate", file, 0) == FAIL ? -1 : REAL(ftruncate)(file, size); }
int ftruncate64(int file, off64_t size) {
  return opened("ftruncate", file, 0) == FAIL ? -1 : REAL(ftruncate64)(file, size);
}

int mkdir(const char *path, mode_t mode) {
  return named("mkdir", AT_FDCWD, path) == FAIL ? -1 : REAL(mkdir)(path, mode);
}
int mkdirat(int base, const char *path, mode_t mode) {
  return named("mkdir", base, path) == FAIL ? -1 : REAL(mkdirat)(base, path, mode);
}
int rename(const char *from, const char *to) {
  return named("rename", AT_FDCWD, to) == FAIL ? -1 : REAL(rename)(from, to);
}
int renameat(int base, const char *from, int other, const char *to) {
  return named("rename", other, to) == FAIL ? -1 : REAL(renameat)(base, from, other, to);
}
int unlink(const char *path) { return named("unlink", AT_FDCWD, path) == FAIL ? -1 : REAL(unlink)(path); }
int unlinkat(int base, const char *path, int flags) {
  return named(flags & AT_REMOVEDIR ? "rmdir" : "unlink", base, path) == FAIL ? -1 : REAL(unlinkat)(base, path, flags);
}
int rmdir(const char *path) { return named("rmdir", AT_FDCWD, path) == FAIL ? -1 : REAL(rmdir)(path); }
