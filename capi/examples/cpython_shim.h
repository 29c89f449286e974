/* See cpython_shim.c. */
#ifndef CPYTHON_SHIM_H
#define CPYTHON_SHIM_H

#include <stddef.h>

#include "jita.h"

/* The arena that all code lives in, made on first use; NULL if the machine allows
 * none: then nothing is compiled. */
jita_arena *jit_arena(void);

/* Memory to write `size` bytes of code and data to; what is written at p runs at
 * p + *delta. NULL, with a message, if there is none. */
unsigned char *jit_alloc(size_t size, ptrdiff_t *delta);

/* Makes what jit_alloc returned to this thread last runnable. 0, or -1. */
int mark_executable(unsigned char *memory, size_t size);

/* Frees by the run address. 0, or -1. */
int jit_free(unsigned char *run, size_t size);

#endif
