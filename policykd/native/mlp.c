/* Forward and backward pass of many small MLPs: a network stays in cache from its first layer to its last.
 *
 * Numbers are float32. Parameters of a network: weight (in, out) row-major, bias (out,), layer by layer; where
 * hidden layers are normalised, scale (out,) and shift (out,) follow their bias. Kept of a hidden layer: its
 * outputs (samples, width); where normalised, instead the normalised sums (samples, width) and a factor per sample. */
#include "mlp.h"

#include <stdatomic.h>

#include "bfloat16.h"
#include "norm.h"
#include "pool.h"
#include "product.h"
#include "space.h"

static Int parameters(const Network *net, Int l) {
    return net->sizes[l + 1] * (net->sizes[l] + (net->norm && l < net->layers - 1 ? 3 : 1));
}

/* Products between hidden layers may take operands in bfloat16 (sums are float32); those of observations, actions and
 * values never do. */
enum { WIDE = 32 };
static atomic_int rounding; /* read once per call: a thread of the program may switch it while another computes */

int set_bfloat16(int on) { return on && !ROUNDS ? -1 : atomic_exchange(&rounding, on); }

static int rounded(const Network *net, int rounds, Int l) {
    return rounds && l && l < net->layers - 1 && net->sizes[l] >= WIDE && net->sizes[l + 1] >= WIDE;
}

/* Working space of `product`, for all layers and both directions. */
static Int panel_numbers(const Network *net, int rounds, Int samples) {
    const Int deepest = net->widest > samples ? net->widest : samples;
    return whole_lines(deepest * PANEL + (rounds ? (samples + 1) * (net->widest + 1) / 2 : 0));
}

static Int kept_numbers(const Network *net, Int l) { return net->sizes[l] + (net->norm != 0); }

/* In place; apart from the products, whose unrolled tiles would each hold a copy of it. */
static void activate(int activation, Int count, float *x) {
    Int i = 0;
    for (; i + LANES <= count; i += LANES) *(Vec *)(x + i) = activation_of(activation, *(Vec *)(x + i));
    const int rest = (int)(count - i);
    if (rest) store(x + i, activation_of(activation, load(x + i, rest)), rest);
}

/* One network; `hidden` or NULL and `outputs` are its own. */
static void forward_one(const Network *net, int rounds, Int samples, const float *weight, Matrix x, float *hidden,
                        float *outputs, float *panel, float *spare[2]) {
    for (Int l = 0; l < net->layers; l++) {
        const Int in = net->sizes[l], out = net->sizes[l + 1], numbers = samples * out;
        const int last = l == net->layers - 1, norm = net->norm && !last, apart = net->activation != RELU;
        const float *bias = weight + in * out;
        float *y = last ? outputs : hidden && !norm ? hidden : spare[l % 2];
        float *sums = norm && hidden ? hidden : y;
        const Epilogue end = {bias, NULL, !last && !norm && !apart, 0, rounded(net, rounds, l)};
        product(samples, out, in, x, (Matrix){weight, out, 1}, sums, end, panel);
        if (norm) normalise(samples, out, net->activation, bias + out, bias + 2 * out, sums,
                            hidden ? sums + numbers : NULL, y);
        else if (!last && apart) activate(net->activation, numbers, y);
        if (hidden && !last) hidden += samples * kept_numbers(net, l + 1);
        weight += parameters(net, l);
        x = (Matrix){y, out, 1};
    }
}

typedef struct {
    const Network *net;
    int rounds; /* whether products may be rounded */
    Int samples, row_stride, network; /* strides of networks in `rows` and `inputs` */
    const float *rows;
    Matrix inputs; /* of the first network */
    float *hidden, *outputs, *panels;
    Int working, panel; /* numbers for activations twice and for a panel, of every worker */
} Forward;

static void forward_task(void *task, Int r, int worker) {
    const Forward *t = task;
    const Matrix inputs = {t->inputs.data + r * t->network, t->inputs.row, t->inputs.column};
    float *panel = t->panels + worker * (t->panel + 2 * t->working);
    float *spare[2] = {panel + t->panel, panel + t->panel + t->working};
    forward_one(t->net, t->rounds, t->samples, t->rows + r * t->row_stride, inputs,
                t->hidden ? t->hidden + r * t->samples * t->net->kept : NULL,
                t->outputs + r * t->samples * t->net->sizes[t->net->layers], panel, spare);
}

int forward(const Network *net, Int networks, Int samples, const float *rows, Int row_stride,
            const float *inputs, Int network, Int sample, Int feature, float *hidden, float *outputs) {
    const int rounds = rounding;
    const Int working = whole_lines(samples * net->widest), panel = panel_numbers(net, rounds, samples);
    const int workers = workers_for(networks, 2.0 * (double)(networks * samples * net->length));
    float *panels = space(workers * (panel + 2 * working));
    if (!panels) return -1;
    Forward task = {net, rounds, samples, row_stride, network, rows, {inputs, sample, feature}, hidden, outputs,
                    panels, working, panel};
    parallel(networks, workers, forward_task, &task);
    give_back(panels);
    return 0;
}

/* One network, from its last layer to its first: `gradient` is that of its outputs and `hidden` what it kept; `again`
 * is for outputs of a hidden layer that were not. */
static void backward_one(const Network *net, int rounds, Int samples, const float *weight, Matrix inputs,
                         const float *hidden, Matrix gradient, float *to_rows, float *to_inputs, float *panel,
                         float *spare[2], float *again) {
    static const float one = 1;
    weight += net->length;
    hidden += samples * net->kept;
    if (to_rows) to_rows += net->length;
    for (Int l = net->layers - 1; l >= 0; l--) {
        const Int in = net->sizes[l], out = net->sizes[l + 1];
        weight -= parameters(net, l);
        const float *outputs = again, *scale = l ? weight - 2 * in : NULL; /* of the layer before, behind its bias */
        if (l) hidden -= samples * kept_numbers(net, l);
        if (l && net->norm) activate_normalised(samples, in, net->activation, scale, scale + in, hidden, again);
        else outputs = hidden;
        if (to_rows) {
            to_rows -= parameters(net, l);
            const Matrix turned = l ? (Matrix){outputs, 1, in} : (Matrix){inputs.data, inputs.column, inputs.row};
            const Epilogue as_it_is = {NULL, NULL, 0, 0, rounded(net, rounds, l)};
            product(in, out, samples, turned, gradient, to_rows, as_it_is, panel);
            product(1, out, samples, (Matrix){&one, 0, 0}, gradient, to_rows + in * out, (Epilogue){0}, panel);
        }
        if (l == 0 && !to_inputs) break;
        float *y = l ? spare[l % 2] : to_inputs;
        const Epilogue end = {NULL, l ? outputs : NULL, 0, net->activation, rounded(net, rounds, l)};
        product(samples, in, out, gradient, (Matrix){weight, 1, out}, y, end, panel);
        if (l && net->norm) {
            float *to_scale = to_rows ? to_rows - 2 * in : NULL;
            through_norm(samples, in, scale, hidden, hidden + samples * in, y, to_scale,
                         to_scale ? to_scale + in : NULL);
        }
        gradient = (Matrix){y, in, 1};
    }
}

typedef struct {
    const Network *net;
    int rounds; /* whether products may be rounded */
    Int samples, row_stride, network, gradient_network;
    const float *rows, *hidden;
    Matrix inputs, gradient; /* of the first network */
    float *to_rows, *to_inputs, *panels;
    Int working, panel; /* numbers for gradients twice, for outputs and for a panel, of every worker */
} Backward;

static void backward_task(void *task, Int r, int worker) {
    const Backward *t = task;
    const Matrix inputs = {t->inputs.data + r * t->network, t->inputs.row, t->inputs.column};
    const Matrix gradient = {t->gradient.data + r * t->gradient_network, t->gradient.row, t->gradient.column};
    float *panel = t->panels + worker * (t->panel + 3 * t->working);
    float *spare[2] = {panel + t->panel, panel + t->panel + t->working}, *again = spare[1] + t->working;
    backward_one(t->net, t->rounds, t->samples, t->rows + r * t->row_stride, inputs,
                 t->hidden + r * t->samples * t->net->kept, gradient,
                 t->to_rows ? t->to_rows + r * t->net->length : NULL,
                 t->to_inputs ? t->to_inputs + r * t->samples * t->net->sizes[0] : NULL, panel, spare, again);
}

int backward(const Network *net, Int networks, Int samples, const float *rows, Int row_stride,
             const float *inputs, Int network, Int sample, Int feature, const float *hidden, const float *gradient,
             Int gradient_network, Int gradient_sample, Int gradient_feature, float *to_rows, float *to_inputs) {
    const int rounds = rounding;
    const Int working = whole_lines(samples * net->widest), panel = panel_numbers(net, rounds, samples);
    const int workers = workers_for(networks, (to_rows ? 4.0 : 2.0) * (double)(networks * samples * net->length));
    float *panels = space(workers * (panel + 3 * working));
    if (!panels) return -1;
    Backward task = {net, rounds, samples, row_stride, network, gradient_network, rows, hidden,
                     {inputs, sample, feature}, {gradient, gradient_sample, gradient_feature},
                     to_rows, to_inputs, panels, working, panel};
    parallel(networks, workers, backward_task, &task);
    give_back(panels);
    return 0;
}
