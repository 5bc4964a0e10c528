/* All layers of a Llama for the newest token of each row, by the functions of kernels.c: the caller of these needs a tenth of a decode
 * step, since weights that pass through the caches push its own memory out of them. */

#pragma once

/* A linear layer, or several that are fused: see struct matmul. */
struct linear {
    const void *weights, *scales;
    int64_t out, kind;
};

/* query: with key and value in it if they have no weights; gate: with up in it. */
struct decoder_layer {
    const void *attention_norm, *mlp_norm; /* [hidden] */
    struct linear query, key, value, output, gate, up, down;
};

struct decoder {
    const struct decoder_layer *layers;
    int64_t count, hidden, intermediate, heads, kv_heads, size; /* count: of layers; size: of a head */
    int64_t small; /* with fewer elements than this a second thread does not help */
    float eps, scale;
};

/* A decode step in progress. */
struct step {
    const struct decoder *d;
    int64_t rows;
    int is_float32, threads;
    parallel_function *parallel;
};

static int threads_for(const struct step *s, int64_t elements) { return elements < s->d->small ? 1 : s->threads; }

static int multiply(const struct step *s, const struct linear *l, const void *x, int64_t in, void *y) {
    return olc_matmul(l->weights, l->scales, x, y, s->rows, l->out, in, (int)l->kind, s->is_float32, threads_for(s, l->out * in),
                      s->parallel);
}

/* A part of fused outputs, or the output of a layer of its own: where it begins, and how far its rows are apart. */
struct part {
    uint8_t *at;
    int64_t stride;
};

/* Multiplies x by layers of `sizes` outputs each, which are fused if the second one has no weights, into y, room for all of them. */
static int multiply_parts(const struct step *s, const struct linear *const *layers, const int64_t *sizes, int count, const void *x,
                          uint8_t *y, struct part *parts) {
    const int64_t element = s->is_float32 ? 4 : 2, in = s->d->hidden;
    const int fused = !layers[1]->weights;
    if (fused && multiply(s, layers[0], x, in, y)) return 1;
    for (int i = 0; i < count; i++) {
        parts[i] = (struct part){y, fused ? layers[0]->out : sizes[i]};
        if (!fused && multiply(s, layers[i], x, in, y)) return 1;
        y += sizes[i] * element * (fused ? 1 : s->rows);
    }
    return 0;
}

/* x [rows, count], whose rows are `stride` elements apart, as bfloat16. */
static void narrow_rows(const struct step *s, struct part x, int64_t count, uint16_t *to) {
    for (int64_t row = 0; row < s->rows; row++)
        for (int64_t i = 0; i < count; i += LANES)
            store(to, row * count + i, 0, count - i, load(x.at, row * x.stride + i, s->is_float32, count - i));
}

static void add(const struct step *s, void *to, const void *x) {
    const int64_t count = s->rows * s->d->hidden;
    for (int64_t i = 0; i < count; i += LANES)
        store(to, i, s->is_float32, count - i, load(to, i, s->is_float32, count - i) + load(x, i, s->is_float32, count - i));
}

/* hidden [rows, hidden] of the embedding becomes that after the last layer. cosine, sine: [rows, size]. keys, values: [layers][rows],
 * each [kv_heads, capacity, size]; lengths, capacities: [rows]. memory: 4 bytes for each row and 2 * (heads + 2 * kv_heads) * size +
 * heads * size + 2 * hidden + 3 * intermediate elements. Returns 0, or 1 if memory ran out. */
int olc_decode(const struct decoder *d, void *hidden, const void *cosine, const void *sine, void *const *keys, void *const *values,
               const int64_t *lengths, const int64_t *capacities, uint8_t *memory, int64_t rows, int is_float32, int threads,
               parallel_function *parallel) {
    const struct step s = {d, rows, is_float32, threads, parallel};
    const int64_t queries = d->heads * d->size, kv = d->kv_heads * d->size, element = is_float32 ? 4 : 2;
    const int64_t attention[3] = {queries, kv, kv}, mlp[2] = {d->intermediate, d->intermediate};
    uint8_t *const normed = memory, *const added = normed + rows * d->hidden * element, *const inputs = added + rows * d->hidden * element;
    uint8_t *const attended = inputs + rows * (queries + 2 * kv) * element, *const gated = attended + rows * queries * element;
    uint8_t *const product = gated + rows * 2 * d->intermediate * element;
    uint16_t *const query = (uint16_t *)(product + rows * d->intermediate * element), *const key = query + rows * queries;
    uint16_t *const value = key + rows * kv;
    int64_t positions = 0;
    for (int64_t row = 0; row < rows; row++) positions += lengths[row];
    for (const struct decoder_layer *l = d->layers; l < d->layers + d->count; l++, keys += rows, values += rows) {
        const struct linear *const of_attention[3] = {&l->query, &l->key, &l->value}, *const of_mlp[2] = {&l->gate, &l->up};
        struct part parts[3];
        olc_rms_norm(hidden, l->attention_norm, normed, rows, d->hidden, d->hidden, d->eps, is_float32,
                     threads_for(&s, rows * d->hidden), parallel);
        if (multiply_parts(&s, of_attention, attention, 3, normed, inputs, parts)) return 1;
        for (int i = 0; i < 2; i++)
            olc_apply_rotary(parts[i].at, cosine, sine, i ? key : query, rows, i ? d->kv_heads : d->heads, d->size, parts[i].stride,
                             is_float32, threads_for(&s, rows * attention[i]), parallel);
        narrow_rows(&s, parts[2], kv, value);
        if (olc_attend(query, key, value, keys, values, lengths, capacities, attended, rows, d->heads, d->kv_heads, d->size, d->scale,
                       is_float32, threads_for(&s, positions * queries * 2), parallel))
            return 1;
        if (multiply(&s, &l->output, attended, queries, added)) return 1;
        add(&s, hidden, added);
        olc_rms_norm(hidden, l->mlp_norm, normed, rows, d->hidden, d->hidden, d->eps, is_float32, threads_for(&s, rows * d->hidden),
                     parallel);
        if (multiply_parts(&s, of_mlp, mlp, 2, normed, gated, parts)) return 1;
        olc_silu_mul(parts[0].at, parts[1].at, product, rows, d->intermediate, parts[0].stride, parts[1].stride, is_float32,
                     threads_for(&s, rows * d->intermediate), parallel);
        if (multiply(&s, &l->down, product, d->intermediate, added)) return 1;
        add(&s, hidden, added);
    }
    return 0;
}
