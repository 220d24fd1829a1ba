/* Drawing and gathering batches in one call, by numpy's own generators. */
#include <stdint.h>
#include <string.h>

#include "vectors.h"

enum { AHEAD = 16 }; /* rows that are fetched into cache at a time: each is somewhere else in memory */

/* A batch: for every learner, `samples` transitions from one of `rings` rings from `first[learner]` on, of the most
 * recent so many of each. */
typedef struct {
    Int samples, recent, rings;
    const int64_t *first;
} Draw;

/* `draws` batches one after the other into out (learners, samples, width) each. Storage is (rings of all, capacity,
 * width), `size` of each are filled, and `position` is where the next will go. uniform[learner](state[learner]) is the
 * next number in [0, 1). */
__attribute__((visibility("default"))) void gather(
    Int learners, Int width, const float *storage, Int capacity, Int size, Int position, Int draws, const Draw *draw,
    double (*const *uniform)(void *), void *const *state, float *out) {
    for (; draws; draws--, draw++) {
        const Int count = draw->recent < size ? draw->recent : size;
        for (Int k = 0; k < learners; k++) {
            for (Int i = 0; i < draw->samples; i += AHEAD) {
                const Int here = draw->samples - i < AHEAD ? draw->samples - i : AHEAD;
                const float *rows[AHEAD];
                for (Int j = 0; j < here; j++) {
                    const Int drawn = (Int)(uniform[k](state[k]) * (double)(count * draw->rings));
                    const Int ring = draw->rings > 1 ? drawn / count : 0, age = drawn - ring * count;
                    const Int place = position - 1 - age + (position - 1 < age ? size : 0);
                    rows[j] = storage + ((draw->first[k] + ring) * capacity + place) * width;
                    for (Int at = 0; at < width; at += 16) __builtin_prefetch(rows[j] + at);
                }
                for (Int j = 0; j < here; j++, out += width) memcpy(out, rows[j], sizeof(float) * (size_t)width);
            }
        }
    }
}
