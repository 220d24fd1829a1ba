/* Drawing and gathering a batch in one call, by numpy's own generators. */
#include <stdint.h>
#include <string.h>

#include "vectors.h"

enum { AHEAD = 16 }; /* rows that are fetched into cache at a time: each is somewhere else in memory */

/* A finite number of 16 bits as float: exponents differ by 112, and the least one stands for subnormals. */
INLINE float float_of(uint16_t half) {
    union { uint32_t bits; float number; } x = {(uint32_t)(half & 0x7fff) << 13}, least = {113u << 23};
    const int subnormal = x.bits < 1u << 23;
    x.bits += (subnormal ? 113u : 112u) << 23;
    x.number -= subnormal ? least.number : 0;
    x.bits |= (uint32_t)(half & 0x8000) << 16;
    return x.number;
}

/* A row as `width` floats: `halves` numbers of 16 bits, the rest as it is. */
INLINE void read_row(float *out, const void *row, Int width, Int halves) {
    const uint16_t *from = row;
    for (Int i = 0; i < halves; i++) out[i] = float_of(from[i]);
    memcpy(out + halves, from + halves, sizeof(float) * (size_t)(width - halves));
}

/* For every learner, `samples` transitions of `width` numbers, from one of `rings` rings from `first[learner]` on, of
 * its `count` most recent. Storage is (rings of all, capacity, row), where the first `halves` numbers of a row have 16
 * bits, and `position` is where the next will go. uniform[learner](state[learner]) is the next number in
 * [0, 1). Batches go to out (learners, samples, width). Returns 0, or -1 if a ring is not there. */
__attribute__((visibility("default"))) int gather(
    Int learners, Int samples, Int width, Int halves, const char *storage, Int whole, Int capacity, Int size,
    Int position, Int count, Int rings, const int64_t *first, double (*const *uniform)(void *), void *const *state,
    float *out) {
    const Int bytes = 4 * width - 2 * halves;
    for (Int k = 0; k < learners; k++) {
        if (first[k] < 0 || first[k] + rings > whole) return -1;
        for (Int i = 0; i < samples; i += AHEAD) {
            const Int here = samples - i < AHEAD ? samples - i : AHEAD;
            const char *rows[AHEAD];
            for (Int j = 0; j < here; j++) {
                const Int drawn = (Int)(uniform[k](state[k]) * (double)(count * rings));
                const Int ring = rings > 1 ? drawn / count : 0, age = drawn - ring * count;
                const Int place = position - 1 - age + (position - 1 < age ? size : 0);
                rows[j] = storage + ((first[k] + ring) * capacity + place) * bytes;
                for (Int at = 0; at < bytes; at += 64) __builtin_prefetch(rows[j] + at);
            }
            for (Int j = 0; j < here; j++, out += width) read_row(out, rows[j], width, halves);
        }
    }
    return 0;
}
