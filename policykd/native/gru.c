/* Forward and backward pass through time of many gated recurrent units (Cho et al. 2014, as torch.nn.GRU computes them).
 *
 * Numbers are float32. Parameters of a network of H units: weights of the inputs (in, 3H) and of the state (H, 3H), then
 * the biases of both (3H,); the three parts are the reset gate, the update gate and the candidate. Kept of a step of a
 * sequence, of H numbers each: the state before it, both gates, what the state says to the candidate, the candidate. */
#include <string.h>

#include "pool.h"
#include "product.h"
#include "space.h"

enum { BEFORE, RESET, UPDATE, HEARD, CANDIDATE, KEPT };

typedef struct {
    Int inputs, units, length, batch; /* widths, steps, sequences */
} Shape;

static Int parameters(Shape s) { return 3 * s.units * (s.inputs + s.units + 2); }
static Int steps(Shape s) { return s.length * s.batch; }

/* A width in vectors, the last of which may be narrower. */
#define CHUNKS(i, w, H) \
    for (Int i = 0, w = H < LANES ? H : LANES; i < H; i += LANES, w = H - i < LANES ? H - i : LANES)

/* One step of one sequence: `seen` is what its input says, `told` what the state before it says. */
static void step_forward(Int H, const float *seen, const float *told, float *kept, float *state) {
    CHUNKS(i, w, H) {
        const Vec before = load(kept + BEFORE * H + i, w), heard = load(told + 2 * H + i, w);
        const Vec reset = sigmoid_of(load(seen + i, w) + load(told + i, w));
        const Vec update = sigmoid_of(load(seen + H + i, w) + load(told + H + i, w));
        const Vec candidate = tanh_of(load(seen + 2 * H + i, w) + reset * heard);
        store(kept + RESET * H + i, reset, w);
        store(kept + UPDATE * H + i, update, w);
        store(kept + HEARD * H + i, heard, w);
        store(kept + CANDIDATE * H + i, candidate, w);
        store(state + i, candidate + update * (before - candidate), w);
    }
}

/* Back, from the gradient of the state after it: to what the input and the state say, and past the gates. */
static void step_backward(Int H, const float *kept, const float *gradient, float *to_seen, float *to_told,
                          float *to_before) {
    CHUNKS(i, w, H) {
        const Vec reset = load(kept + RESET * H + i, w), update = load(kept + UPDATE * H + i, w);
        const Vec candidate = load(kept + CANDIDATE * H + i, w), g = load(gradient + i, w);
        const Vec to_candidate = (g - g * update) * (1 - candidate * candidate);
        const Vec to_reset = to_candidate * load(kept + HEARD * H + i, w) * (reset - reset * reset);
        const Vec to_update = g * (load(kept + BEFORE * H + i, w) - candidate) * (update - update * update);
        store(to_seen + i, to_reset, w);
        store(to_seen + H + i, to_update, w);
        store(to_seen + 2 * H + i, to_candidate, w);
        store(to_told + i, to_reset, w);
        store(to_told + H + i, to_update, w);
        store(to_told + 2 * H + i, to_candidate * reset, w);
        store(to_before + i, g * update, w);
    }
}

typedef struct {
    Shape shape;
    const float *rows, *inputs, *state;
    Int row_stride;
    const unsigned char *continues;
    float *kept, *states; /* kept may be NULL */
    float *space;
    Int working; /* numbers of every worker */
} Forward;

static Int forward_numbers(Shape s) {
    const Int deepest = s.inputs > s.units ? s.inputs : s.units;
    return whole_lines(deepest * PANEL + 3 * s.units * (steps(s) + s.batch) + KEPT * s.units * s.batch);
}

static void forward_task(void *task, Int r, int worker) {
    const Forward *t = task;
    const Shape s = t->shape;
    const Int H = s.units, gates = 3 * H;
    const float *weights = t->rows + r * t->row_stride, *recurrent = weights + s.inputs * gates;
    const float *bias = recurrent + H * gates, *before = t->state + r * s.batch * H;
    const unsigned char *continues = t->continues + r * steps(s);
    float *panel = t->space + worker * t->working, *seen = panel + (s.inputs > H ? s.inputs : H) * PANEL;
    float *told = seen + steps(s) * gates, *states = t->states + r * steps(s) * H;
    float *kept = t->kept ? t->kept + r * steps(s) * KEPT * H : told + s.batch * gates;
    product(steps(s), gates, s.inputs, (Matrix){t->inputs + r * steps(s) * s.inputs, s.inputs, 1},
            (Matrix){weights, gates, 1}, seen, (Epilogue){.bias = bias}, panel);
    for (Int l = 0; l < s.length; l++) {
        for (Int b = 0; b < s.batch; b++) { /* an episode also forgets NaN, which times 0 would stay */
            float *to = kept + b * KEPT * H;
            if (continues[b]) memcpy(to, before + b * H, sizeof(float) * (size_t)H);
            else memset(to, 0, sizeof(float) * (size_t)H);
        }
        product(s.batch, gates, H, (Matrix){kept, KEPT * H, 1}, (Matrix){recurrent, gates, 1}, told,
                (Epilogue){.bias = bias + gates}, panel);
        for (Int b = 0; b < s.batch; b++)
            step_forward(H, seen + b * gates, told + b * gates, kept + b * KEPT * H, states + b * H);
        before = states, states += s.batch * H, seen += s.batch * gates, continues += s.batch;
        if (t->kept) kept += s.batch * KEPT * H;
    }
}

/* States (networks, length, batch, units) of inputs (networks, length, batch, inputs), from `state`, which is forgotten
 * before a step that does not go on. `kept` takes what gru_backward needs, 5 numbers for each of `states`; NULL if no
 * gradient will be asked for. Returns 0, or -1 without memory. */
__attribute__((visibility("default"))) int gru_forward(
    Int networks, Int inputs, Int units, Int length, Int batch, const float *rows, Int row_stride, const float *x,
    const unsigned char *continues, const float *state, float *kept, float *states) {
    const Shape shape = {inputs, units, length, batch};
    const int workers = workers_for(networks, 2.0 * (double)(networks * steps(shape) * parameters(shape)));
    const Int working = forward_numbers(shape);
    float *numbers = space(workers * working);
    if (!numbers) return -1;
    Forward task = {shape, rows, x, state, row_stride, continues, kept, states, numbers, working};
    parallel(networks, workers, forward_task, &task);
    give_back(numbers);
    return 0;
}

typedef struct {
    Shape shape;
    const float *rows, *inputs, *kept, *gradient;
    Int row_stride;
    const unsigned char *continues;
    float *to_rows, *to_inputs, *to_state; /* to_inputs may be NULL */
    float *space;
    Int working; /* numbers of every worker */
} Backward;

static Int deepest_backward(Shape s) { return steps(s) > 3 * s.units ? steps(s) : 3 * s.units; }

static Int backward_numbers(Shape s) {
    return whole_lines(deepest_backward(s) * PANEL + 6 * s.units * steps(s) + 2 * s.units * s.batch);
}

static void backward_task(void *task, Int r, int worker) {
    static const float one = 1;
    const Backward *t = task;
    const Shape s = t->shape;
    const Int H = s.units, gates = 3 * H, N = steps(s);
    const float *weights = t->rows + r * t->row_stride, *recurrent = weights + s.inputs * gates;
    const float *inputs = t->inputs + r * N * s.inputs, *kept = t->kept + r * N * KEPT * H;
    const unsigned char *continues = t->continues + r * N;
    float *panel = t->space + worker * t->working, *to_seen = panel + deepest_backward(s) * PANEL;
    float *to_told = to_seen + N * gates, *whole = to_told + N * gates, *to_before = whole + s.batch * H;
    float *to_state = t->to_state + r * s.batch * H, *to_row = t->to_rows + r * parameters(s);
    memset(to_state, 0, sizeof(float) * (size_t)(s.batch * H));
    for (Int l = s.length - 1; l >= 0; l--) {
        const float *gradient = t->gradient + (r * N + l * s.batch) * H;
        const Int at = l * s.batch;
        for (Int i = 0; i < s.batch * H; i++) whole[i] = gradient[i] + to_state[i];
        for (Int b = 0; b < s.batch; b++)
            step_backward(H, kept + (at + b) * KEPT * H, whole + b * H, to_seen + (at + b) * gates,
                          to_told + (at + b) * gates, to_before + b * H);
        product(s.batch, H, gates, (Matrix){to_told + at * gates, gates, 1}, (Matrix){recurrent, 1, gates}, to_state,
                (Epilogue){0}, panel);
        for (Int b = 0; b < s.batch; b++)
            for (Int i = b * H; i < (b + 1) * H; i++) to_state[i] = continues[at + b] ? to_state[i] + to_before[i] : 0;
    }
    const Matrix seen = {to_seen, gates, 1}, told = {to_told, gates, 1};
    product(s.inputs, gates, N, (Matrix){inputs, 1, s.inputs}, seen, to_row, (Epilogue){0}, panel);
    to_row += s.inputs * gates;
    product(H, gates, N, (Matrix){kept, 1, KEPT * H}, told, to_row, (Epilogue){0}, panel);
    to_row += H * gates;
    product(1, gates, N, (Matrix){&one, 0, 0}, seen, to_row, (Epilogue){0}, panel);
    product(1, gates, N, (Matrix){&one, 0, 0}, told, to_row + gates, (Epilogue){0}, panel);
    if (t->to_inputs)
        product(N, s.inputs, gates, seen, (Matrix){weights, 1, gates}, t->to_inputs + r * N * s.inputs, (Epilogue){0},
                panel);
}

/* Gradients of rows (networks, parameters), of inputs unless NULL, and of the state before the first step, from that of
 * the states. Returns 0, or -1 without memory. */
__attribute__((visibility("default"))) int gru_backward(
    Int networks, Int inputs, Int units, Int length, Int batch, const float *rows, Int row_stride, const float *x,
    const unsigned char *continues, const float *kept, const float *gradient, float *to_rows, float *to_inputs,
    float *to_state) {
    const Shape shape = {inputs, units, length, batch};
    const int workers = workers_for(networks, 4.0 * (double)(networks * steps(shape) * parameters(shape)));
    const Int working = backward_numbers(shape);
    float *numbers = space(workers * working);
    if (!numbers) return -1;
    Backward task = {shape,   rows,      x,         kept,     gradient, row_stride,
                     continues, to_rows, to_inputs, to_state, numbers,  working};
    parallel(networks, workers, backward_task, &task);
    give_back(numbers);
    return 0;
}
