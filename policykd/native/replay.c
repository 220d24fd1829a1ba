/* Drawing and gathering a batch in one call, by numpy's own generators. */
#include <stdint.h>
#include <string.h>

#include "vectors.h"

enum { AHEAD = 16 }; /* rows that are fetched into cache at a time: each is somewhere else in memory */

/* For every learner, `samples` transitions of `width` numbers, from one of `rings` rings from `first[learner]` on, of
 * its `count` most recent; storage is (rings of all, capacity, width), and `position` is where the next will go.
 * uniform[learner](state[learner]) is the next number in [0, 1). Batches go to out (learners, samples, width).
 * Returns 0, or -1 if a ring is not there. */
__attribute__((visibility("default"))) int gather(
    Int learners, Int samples, Int width, const float *storage, Int whole, Int capacity, Int size, Int position, Int count,
    Int rings, const int64_t *first, double (*const *uniform)(void *), void *const *state, float *out) {
    for (Int k = 0; k < learners; k++) {
        if (first[k] < 0 || first[k] + rings > whole) return -1;
        for (Int i = 0; i < samples; i += AHEAD) {
            const Int here = samples - i < AHEAD ? samples - i : AHEAD;
            const float *rows[AHEAD];
            for (Int j = 0; j < here; j++) {
                const Int drawn = (Int)(uniform[k](state[k]) * (double)(count * rings));
                const Int ring = rings > 1 ? drawn / count : 0, age = drawn - ring * count;
                const Int place = position - 1 - age + (position - 1 < age ? size : 0);
                rows[j] = storage + ((first[k] + ring) * capacity + place) * width;
                for (Int at = 0; at < width; at += 16) __builtin_prefetch(rows[j] + at);
            }
            for (Int j = 0; j < here; j++, out += width) memcpy(out, rows[j], sizeof(float) * (size_t)width);
        }
    }
    return 0;
}
