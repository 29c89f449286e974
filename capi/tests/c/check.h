/* What the test programs share: checks, and code for two processors. */
#ifndef CHECK_H
#define CHECK_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "jita.h"

#define CHECK(condition)                                                              \
    do {                                                                              \
        if (!(condition)) {                                                           \
            fprintf(stderr, "%s:%d: %s\n  last error: %s\n", __FILE__, __LINE__,      \
                    #condition, jita_last_error());                                   \
            abort();                                                                  \
        }                                                                             \
    } while (0)

/* That `call` returns `status`; says what it returned if not. */
#define RETURNS(status, call)                                                         \
    do {                                                                              \
        int got_ = (call);                                                            \
        if (got_ != (status)) {                                                       \
            fprintf(stderr, "%s:%d: %s\n  returned %d (%s)\n  last error: %s\n",      \
                    __FILE__, __LINE__, #call, got_, jita_error_name(got_),           \
                    jita_last_error());                                               \
            abort();                                                                  \
        }                                                                             \
    } while (0)

#define OK(call) RETURNS(JITA_OK, call)

/* Bytes of a function that emit_constant writes. */
#define CONSTANT_LEN 12

/* Writes a function that returns `value` to `at`. */
static inline void emit_constant(void *at, uint32_t value) {
#if defined(__x86_64__)
    unsigned char code[CONSTANT_LEN];
    memset(code, 0xCC, sizeof code);
    code[0] = 0xB8; /* mov eax, value */
    memcpy(code + 1, &value, 4);
    code[5] = 0xC3; /* ret */
#elif defined(__aarch64__)
    uint32_t code[3] = {0x52800000 | (value & 0xFFFF) << 5,
                        0x72A00000 | (value >> 16) << 5, 0xD65F03C0};
#else
#error "the tests have code for x86-64 and aarch64"
#endif
    memcpy(at, code, CONSTANT_LEN);
}

/* Bytes of a function that emit_load writes. */
#define LOAD_LEN 12

/* Writes a function that returns the word `data` bytes behind its own start. */
static inline void emit_load(void *at, size_t data) {
#if defined(__x86_64__)
    unsigned char code[LOAD_LEN];
    uint32_t distance = (uint32_t)data - 6;
    memset(code, 0xCC, sizeof code);
    code[0] = 0x8B; /* mov eax, [rip + distance] */
    code[1] = 0x05;
    memcpy(code + 2, &distance, 4);
    code[6] = 0xC3;
    memcpy(at, code, LOAD_LEN);
#else
    uint32_t code[3] = {0x18000000 | (uint32_t)(data / 4) << 5, 0xD65F03C0, 0};
    memcpy(at, code, LOAD_LEN);
#endif
}

/* Bytes of a function that emit_jump writes. */
#define JUMP_LEN 8

/* Writes a function that jumps to `target`, to run at `rx`. */
static inline void emit_jump(void *at, const void *rx, const void *target) {
    intptr_t distance = (intptr_t)target - (intptr_t)rx;
#if defined(__x86_64__)
    unsigned char code[JUMP_LEN];
    int32_t relative = (int32_t)(distance - 5);
    memset(code, 0xCC, sizeof code);
    code[0] = 0xE9;
    memcpy(code + 1, &relative, 4);
    memcpy(at, code, JUMP_LEN);
#else
    uint32_t code[2] = {0x14000000 | ((uint32_t)(distance >> 2) & 0x3FFFFFF), 0};
    memcpy(at, code, JUMP_LEN);
#endif
}

/* Calls a function without arguments. */
static inline uint32_t call(const void *rx) {
    uint32_t (*function)(void);
    memcpy(&function, &rx, sizeof function);
    return function();
}

/* The address of a function, as data. */
static inline const void *address_of(uint32_t (*function)(void)) {
    const void *address;
    memcpy(&address, &function, sizeof address);
    return address;
}

/* An arena of 16 MiB with this strategy, NULL for the best; NULL if the machine does
 * not have it. */
static inline jita_arena *create(const char *strategy, uint32_t flags) {
    jita_options options;
    memset(&options, 0, sizeof options);
    options.size = sizeof options;
    options.reserve = (size_t)16 << 20;
    options.strategy = strategy;
    options.flags = flags;
    jita_arena *arena = NULL;
    int status = jita_create(&options, &arena);
    if (status == JITA_ERROR_OS && strategy != NULL) {
        printf("not run: %s: %s\n", strategy, jita_last_error());
        return NULL;
    }
    OK(status);
    return arena;
}

static const char *const STRATEGIES[] = {"dual-pkey", "map-jit",   "dual-transient",
                                         "mprotect",  "dual-open", "single-pkey"};
#define STRATEGY_COUNT (sizeof STRATEGIES / sizeof STRATEGIES[0])

/* Installs a function that returns `value`. */
static inline void *install(jita_arena *arena, uint32_t value) {
    unsigned char code[CONSTANT_LEN];
    void *rx = NULL;
    emit_constant(code, value);
    OK(jita_install(arena, code, sizeof code, NULL, 0, &rx));
    return rx;
}

#endif
