/* Working space of the kernels, kept from one call to the next. */
#include "space.h"

#include <stdatomic.h>
#include <stdlib.h>

/* The latest one, for the next call, whichever thread makes it; its first line says how many numbers it has. */
static _Atomic(float *) spare_space;
enum { LINE = 16 };

Int whole_lines(Int numbers) { return (numbers + LINE - 1) / LINE * LINE; }

float *space(Int numbers) {
    float *kept = atomic_exchange(&spare_space, NULL);
    if (kept && *(Int *)kept >= numbers) return kept + LINE;
    free(kept);
    void *found = NULL;
    if (posix_memalign(&found, 64, sizeof(float) * (size_t)(numbers + LINE))) return NULL;
    *(Int *)found = numbers;
    return (float *)found + LINE;
}

void give_back(float *numbers) { free(atomic_exchange(&spare_space, numbers - LINE)); }
