/* The shared library, loaded at run time, and told to go while a thread that uses it
 * lives: it stays, and the thread ends in good order. */
#include <dlfcn.h>
#include <pthread.h>

#include "jita.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHECK(condition)                                                              \
    do {                                                                              \
        if (!(condition)) {                                                           \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);           \
            abort();                                                                  \
        }                                                                             \
    } while (0)

static jita_status (*create)(const jita_options *, jita_arena **);
static jita_status (*install)(jita_arena *, const void *, size_t, const void *, size_t,
                              void **);
static jita_status (*enter)(jita_arena *, void *const *, void **);
static jita_status (*release)(void *);
static jita_arena *arena;
static pthread_barrier_t barrier;

static void find(void *library, const char *name, void *function) {
    void *found = dlsym(library, name);
    CHECK(found != NULL);
    memcpy(function, &found, sizeof found);
}

static void *lives_on(void *argument) {
    void *code;
    CHECK(install(arena, "code", 4, NULL, 0, &code) == JITA_OK);
    CHECK(enter(arena, NULL, NULL) == JITA_OK);
    pthread_barrier_wait(&barrier);
    pthread_barrier_wait(&barrier); /* told to go in between */
    CHECK(release(code) == JITA_OK);
    return argument;
}

int main(int count, char **arguments) {
    CHECK(count == 2);
    void *library = dlopen(arguments[1], RTLD_NOW | RTLD_LOCAL);
    if (library == NULL) {
        fprintf(stderr, "%s\n", dlerror());
        return 1;
    }
    find(library, "jita_create", &create);
    find(library, "jita_install", &install);
    find(library, "jita_enter", &enter);
    find(library, "jita_free", &release);
    CHECK(create(NULL, &arena) == JITA_OK);
    pthread_t thread;
    CHECK(pthread_barrier_init(&barrier, NULL, 2) == 0);
    CHECK(pthread_create(&thread, NULL, lives_on, NULL) == 0);
    pthread_barrier_wait(&barrier);
    CHECK(dlclose(library) == 0);
    CHECK(dlopen(arguments[1], RTLD_NOW | RTLD_NOLOAD) != NULL); /* it is still there */
    pthread_barrier_wait(&barrier);
    CHECK(pthread_join(thread, NULL) == 0);
    return 0;
}
