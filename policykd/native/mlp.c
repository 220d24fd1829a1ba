/* Forward and backward pass of many small MLPs: a network stays in cache from its first layer to its last.
 *
 * Numbers are float32. Parameters of a network: weight (in, out) row-major, bias (out,), layer by layer; where
 * hidden layers are normalised, scale (out,) and shift (out,) follow their bias. Kept of a hidden layer: its
 * outputs (samples, width); where normalised, also the normalised sums (samples, width) and a factor per sample. */
#include "mlp.h"

#include <stdlib.h>

#include "norm.h"
#include "product.h"

static Int parameters(const Network *net, Int l) {
    return net->sizes[l + 1] * (net->sizes[l] + (net->norm && l < net->layers - 1 ? 3 : 1));
}

static Int kept_numbers(const Network *net, Int l) { return net->norm ? 2 * net->sizes[l] + 1 : net->sizes[l]; }

/* In place; apart from the products, whose unrolled tiles would each hold a copy of it. */
static void activate(int activation, Int count, float *x) {
    Int i = 0;
    for (; i + LANES <= count; i += LANES) *(Vec *)(x + i) = activation_of(activation, *(Vec *)(x + i));
    const int rest = (int)(count - i);
    if (rest) store(x + i, activation_of(activation, load(x + i, rest)), rest);
}

/* One network; `hidden` or NULL and `outputs` are its own. */
static void forward_one(const Network *net, Int samples, const float *weight, Matrix x, float *hidden,
                        float *outputs, float *panel, float *spare[2]) {
    for (Int l = 0; l < net->layers; l++) {
        const Int in = net->sizes[l], out = net->sizes[l + 1], numbers = samples * out;
        const int last = l == net->layers - 1, norm = net->norm && !last, apart = net->activation != RELU;
        const float *bias = weight + in * out;
        float *y = last ? outputs : hidden ? hidden : spare[l % 2];
        float *sums = norm && hidden ? hidden + numbers : y;
        const Epilogue end = {bias, NULL, !last && !norm && !apart, 0};
        product(samples, out, in, x, (Matrix){weight, out, 1}, sums, end, panel);
        if (norm) normalise(samples, out, net->activation, bias + out, bias + 2 * out, sums,
                            hidden ? sums + numbers : NULL, y);
        else if (!last && apart) activate(net->activation, numbers, y);
        if (hidden && !last) hidden += samples * kept_numbers(net, l + 1);
        weight += parameters(net, l);
        x = (Matrix){y, out, 1};
    }
}

/* Working space at the beginning of a cache line: vectors that cross lines take twice the time. */
static float *space(Int numbers) {
    void *found = NULL;
    return posix_memalign(&found, 64, sizeof(float) * (size_t)numbers) ? NULL : found;
}

static Int whole_lines(Int numbers) { return (numbers + 15) / 16 * 16; }

int forward(const Network *net, Int networks, Int samples, const float *rows, Int row_stride,
            const float *inputs, Int network, Int sample, Int feature, float *hidden, float *outputs) {
    const Int working = whole_lines(samples * net->widest);
    float *panel = space(net->widest * PANEL + 2 * working);
    if (!panel) return -1;
    float *spare[2] = {panel + net->widest * PANEL, panel + net->widest * PANEL + working};
    for (Int r = 0; r < networks; r++)
        forward_one(net, samples, rows + r * row_stride, (Matrix){inputs + r * network, sample, feature},
                    hidden ? hidden + r * samples * net->kept : NULL,
                    outputs + r * samples * net->sizes[net->layers], panel, spare);
    free(panel);
    return 0;
}

/* One network, from its last layer to its first: `gradient` is that of its outputs and `hidden` what it kept. */
static void backward_one(const Network *net, Int samples, const float *weight, Matrix inputs, const float *hidden,
                         Matrix gradient, float *to_rows, float *to_inputs, float *panel, float *spare[2]) {
    static const float one = 1;
    weight += net->length;
    hidden += samples * net->kept;
    if (to_rows) to_rows += net->length;
    for (Int l = net->layers - 1; l >= 0; l--) {
        const Int in = net->sizes[l], out = net->sizes[l + 1];
        weight -= parameters(net, l);
        if (l) hidden -= samples * kept_numbers(net, l);
        if (to_rows) {
            to_rows -= parameters(net, l);
            const Matrix turned = l ? (Matrix){hidden, 1, in} : (Matrix){inputs.data, inputs.column, inputs.row};
            product(in, out, samples, turned, gradient, to_rows, (Epilogue){0}, panel);
            product(1, out, samples, (Matrix){&one, 0, 0}, gradient, to_rows + in * out, (Epilogue){0}, panel);
        }
        if (l == 0 && !to_inputs) break;
        float *y = l ? spare[l % 2] : to_inputs;
        const Epilogue end = {NULL, l ? hidden : NULL, 0, net->activation};
        product(samples, in, out, gradient, (Matrix){weight, 1, out}, y, end, panel);
        if (l && net->norm) {
            float *to_scale = to_rows ? to_rows - 2 * in : NULL; /* behind the bias of the layer before */
            through_norm(samples, in, weight - 2 * in, hidden + samples * in, hidden + 2 * samples * in, y,
                         to_scale, to_scale ? to_scale + in : NULL);
        }
        gradient = (Matrix){y, in, 1};
    }
}

int backward(const Network *net, Int networks, Int samples, const float *rows, Int row_stride,
             const float *inputs, Int network, Int sample, Int feature, const float *hidden, const float *gradient,
             Int gradient_network, Int gradient_sample, Int gradient_feature, float *to_rows, float *to_inputs) {
    const Int deepest = net->widest > samples ? net->widest : samples, working = whole_lines(samples * net->widest);
    float *panel = space(deepest * PANEL + 2 * working);
    if (!panel) return -1;
    float *spare[2] = {panel + deepest * PANEL, panel + deepest * PANEL + working};
    for (Int r = 0; r < networks; r++)
        backward_one(net, samples, rows + r * row_stride, (Matrix){inputs + r * network, sample, feature},
                     hidden + r * samples * net->kept,
                     (Matrix){gradient + r * gradient_network, gradient_sample, gradient_feature},
                     to_rows ? to_rows + r * net->length : NULL,
                     to_inputs ? to_inputs + r * samples * net->sizes[0] : NULL, panel, spare);
    free(panel);
    return 0;
}
