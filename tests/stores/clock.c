/* A library for LD_PRELOAD: the system's clock has the offset in seconds, or with "=" the time, that the file CLOCK has. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

int clock_gettime(clockid_t id, struct timespec *now)
{
    static int (*original)(clockid_t, struct timespec *);
    if (!original)
        original = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int result = original(id, now);
    FILE *file = id == CLOCK_REALTIME ? fopen(getenv("CLOCK"), "r") : NULL;
    if (file) {
        char kind = '+';
        long long seconds = 0;
        if (fscanf(file, "%c%lld", &kind, &seconds) == 2) {
            if (kind == '=')
                *now = (struct timespec){seconds, 0};
            else
                now->tv_sec += seconds;
        }
        fclose(file);
    }
    return result;
}
