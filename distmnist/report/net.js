// What the page needs to answer: a drawing becomes 28 x 28 pixels as export/predict.py makes them, and a net reads them.
// Pure functions, no page; tests/report/test_report_net.py runs them beside export.predict and the trained nets.
"use strict";

const WORKING = 160; // pixels a side of a drawing: export.predict's, so that it resizes nothing
const FIT = 20, SIDE = 28, CENTRE = 14;
const f32 = Math.fround; // numpy computes in float32 where this is written

/** Rounds halves to the even neighbour, as Python and numpy do. */
function roundEven(x) {
  const down = Math.floor(x);
  if (x - down !== 0.5) return Math.round(x);
  return down % 2 === 0 ? down : down + 1;
}

/** numpy's percentile of a Float32Array, between neighbours linearly. */
function percentile(values, percent) {
  const sorted = Float32Array.from(values).sort();
  const at = f32(f32(sorted.length - 1) * f32(percent / 100));
  const low = Math.floor(at), high = Math.min(low + 1, sorted.length - 1), share = f32(at - low);
  const step = f32(sorted[high] - sorted[low]);
  return share < 0.5 ? f32(sorted[low] + f32(step * share)) : f32(sorted[high] - f32(step * f32(1 - share)));
}

/** Applies `line(input, output)` to every column of a plane, rows x columns, and transposes: twice is both axes. */
function alongBoth(plane, line) {
  for (let pass = 0; pass < 2; pass++) {
    const next = new Float32Array(plane.length);
    const input = new Float32Array(WORKING), output = new Float32Array(WORKING);
    for (let column = 0; column < WORKING; column++) {
      for (let row = 0; row < WORKING; row++) input[row] = plane[row * WORKING + column];
      line(input, output);
      next.set(output, column * WORKING);
    }
    plane = next;
  }
  return plane;
}

/** The largest value within `reach` pixels, in a square window; by doubling ever wider ones. */
function dilated(plane, reach) {
  const window = 2 * reach + 1, padded = new Float32Array(WORKING + 2 * reach);
  return alongBoth(plane, (input, output) => {
    for (let i = 0; i < padded.length; i++) padded[i] = input[Math.min(Math.max(i - reach, 0), WORKING - 1)];
    let size = 1, length = padded.length;
    for (; 2 * size <= window; size *= 2) {
      length -= size;
      for (let i = 0; i < length; i++) padded[i] = Math.max(padded[i], padded[i + size]);
    }
    for (let i = 0; i < WORKING; i++) output[i] = Math.max(padded[i], padded[window - size + i]);
  });
}

/** The connected pieces of a mask, corners touching. Masks: Uint8Array, 0 or 1. */
function connected(mask) {
  const left = mask.slice(), pieces = [];
  for (let start = 0; start < left.length; start++) {
    if (!left[start]) continue;
    const piece = new Uint8Array(mask.length), queue = [start];
    piece[start] = 1;
    left[start] = 0;
    while (queue.length) {
      const at = queue.pop(), row = Math.floor(at / WORKING), column = at % WORKING;
      for (let r = Math.max(row - 1, 0); r <= Math.min(row + 1, WORKING - 1); r++)
        for (let c = Math.max(column - 1, 0); c <= Math.min(column + 1, WORKING - 1); c++) {
          const near = r * WORKING + c;
          if (!left[near]) continue;
          left[near] = 0;
          piece[near] = 1;
          queue.push(near);
        }
    }
    pieces.push(piece);
  }
  return pieces;
}

const count = (mask) => mask.reduce((sum, v) => sum + v, 0);
const largest = (masks) => masks.reduce((best, mask) => (count(mask) > count(best) ? mask : best));
const grown = (mask, reach) => Uint8Array.from(dilated(Float32Array.from(mask), reach));

/** [top, bottom, left, right] of what is set in rows x columns; bottom and right exclusive. */
function box(mask, columns) {
  let top = Infinity, bottom = 0, left = Infinity, right = 0;
  for (let i = 0; i < mask.length; i++) {
    if (!mask[i]) continue;
    const row = Math.floor(i / columns), column = i % columns;
    top = Math.min(top, row);
    bottom = Math.max(bottom, row + 1);
    left = Math.min(left, column);
    right = Math.max(right, column + 1);
  }
  return [top, bottom, left, right];
}

/** The largest piece with what of the mask lies within 16 % of its size, or of each other. */
function withWhatIsNear(piece, mask) {
  const [top, bottom, left, right] = box(piece, WORKING);
  const near = Math.max(1, Math.round(0.08 * Math.max(bottom - top, right - left))), at = piece.indexOf(1);
  const group = connected(grown(mask, near)).find((other) => other[at]);
  return mask.map((v, i) => v & group[i]);
}

/** Cubic convolution with a = -0.5, Pillow's BICUBIC. */
function bicubic(x) {
  x = Math.abs(x);
  if (x < 1) return (1.5 * x - 2.5) * x * x + 1;
  return x < 2 ? ((x - 5) * x + 8) * x * -0.5 + 2 : 0;
}

/** Scales every row of a plane, rows x columns, to `wanted` pixels and transposes; a wider filter where it shrinks. */
function resampled(plane, rows, columns, wanted) {
  const scale = columns / wanted, stretch = Math.max(scale, 1), out = new Float32Array(wanted * rows);
  for (let x = 0; x < wanted; x++) {
    const centre = (x + 0.5) * scale;
    const first = Math.max(Math.trunc(centre - 2 * stretch + 0.5), 0);
    const last = Math.min(Math.trunc(centre + 2 * stretch + 0.5), columns);
    let weights = [];
    for (let i = first; i < last; i++) weights.push(bicubic((i - centre + 0.5) / stretch));
    const total = weights.reduce((sum, w) => sum + w, 0);
    weights = weights.map((w) => w / total);
    for (let row = 0; row < rows; row++) {
      let sum = 0;
      for (let i = first; i < last; i++) sum += plane[row * columns + i] * weights[i - first];
      out[x * rows + row] = sum;
    }
  }
  return out;
}

/** Ink, 0 to 1, with its longer side scaled to 20 pixels: {ink, rows, columns}. */
function fitted(ink, rows, columns) {
  const scale = FIT / Math.max(rows, columns);
  const height = Math.max(1, roundEven(rows * scale)), width = Math.max(1, roundEven(columns * scale));
  if (height === rows && width === columns) return { ink, rows, columns };
  const across = resampled(ink, rows, columns, width); // transposed: width x rows
  const both = resampled(across, width, rows, height);
  return { ink: both.map((v) => Math.min(Math.max(v, 0), 1)), rows: height, columns: width };
}

/** Pixels, 0 to 255, rows x columns -> Uint8Array of 28 x 28, the centre of mass in the middle as far as it fits. */
function centred(pixels, rows, columns) {
  const out = new Uint8Array(SIDE * SIDE), [top, bottom, left, right] = box(pixels, columns);
  if (bottom === 0) return out;
  let total = 0, down = 0, across = 0;
  for (let r = top; r < bottom; r++)
    for (let c = left; c < right; c++) {
      const value = pixels[r * columns + c];
      total += value;
      down += (r - top) * value;
      across += (c - left) * value;
    }
  const place = (moment, size) => Math.min(Math.max(roundEven(CENTRE - moment / total), 0), SIDE - size);
  const row = place(down, bottom - top), column = place(across, right - left);
  for (let r = top; r < bottom; r++)
    for (let c = left; c < right; c++)
      out[(row + r - top) * SIDE + column + c - left] = pixels[r * columns + c];
  return out;
}

/** A drawing, 160 x 160 values of 0 to 255 -> {pixels: Uint8Array of 28 x 28, blank, several}: `from_drawing` there. */
function prepare(raster) {
  const depth = Float32Array.from(raster, (v) => v / 255);
  const peak = depth.reduce((a, b) => Math.max(a, b)), least = depth.reduce((a, b) => Math.min(a, b));
  if (peak < 0.06 || least > 0.1 * peak) return { pixels: new Uint8Array(SIDE * SIDE), blank: true, several: false };
  const weakest = f32(0.25 * peak), mask = Uint8Array.from(depth, (v) => v > weakest);
  const pieces = connected(mask), digit = withWhatIsNear(largest(pieces), mask);
  const rest = pieces.filter((piece) => piece.every((v, i) => !v || !digit[i])).map(count);
  const found = { mask: digit, several: Math.max(0, ...rest) > 0.15 * count(digit) };
  const full = percentile(depth.filter((_, i) => found.mask[i]), 75), near = grown(found.mask, 1);
  const ink = depth.map((v, i) => Math.min(Math.max(f32(f32(f32(v / full) - f32(0.1)) / f32(0.8)), 0), 1) * near[i]);
  const [top, bottom, left, right] = box(ink.map((v) => v > f32(0.2)), WORKING);
  const rows = bottom - top, columns = right - left, crop = new Float32Array(rows * columns);
  for (let r = 0; r < rows; r++)
    for (let c = 0; c < columns; c++) crop[r * columns + c] = ink[(top + r) * WORKING + left + c];
  const fit = fitted(crop, rows, columns);
  const pixels = Uint8Array.from(fit.ink, (v) => roundEven(f32(255 * v)));
  return { pixels: centred(pixels, fit.rows, fit.columns), blank: false, several: found.several };
}

/** The error function, by the series 2/sqrt(pi) exp(-x^2) sum 2^n x^(2n+1) / (2n+1)!!, all of whose terms agree in sign. */
function erf(x) {
  if (Math.abs(x) > 6) return Math.sign(x);
  let term = x, sum = x;
  for (let n = 1; Math.abs(term) > 1e-17 * Math.abs(sum); n++) sum += term *= (2 * x * x) / (2 * n + 1);
  return (2 / Math.sqrt(Math.PI)) * Math.exp(-x * x) * sum;
}

const ACTIVATIONS = {
  relu: (x) => Math.max(x, 0),
  leaky_relu: (x) => (x > 0 ? x : 0.01 * x),
  gelu: (x) => 0.5 * x * (1 + erf(x / Math.SQRT2)),
  silu: (x) => x / (1 + Math.exp(-x)),
  tanh: Math.tanh,
  elu: (x) => (x > 0 ? x : Math.expm1(x)),
};

function linear(x, weight, bias) {
  const out = new Float32Array(bias.length), width = x.length;
  for (let o = 0; o < out.length; o++) {
    let sum = bias[o];
    for (let i = 0; i < width; i++) sum += weight[o * width + i] * x[i];
    out[o] = sum;
  }
  return out;
}

/** A 3 x 3 convolution with a border of zeros. x: channels x side x side. */
function convolution(x, side, weight, bias) {
  const channels = x.length / (side * side), out = new Float32Array(bias.length * side * side);
  for (let o = 0; o < bias.length; o++)
    for (let row = 0; row < side; row++)
      for (let column = 0; column < side; column++) {
        let sum = bias[o];
        for (let c = 0; c < channels; c++)
          for (let i = Math.max(row - 1, 0); i <= Math.min(row + 1, side - 1); i++)
            for (let j = Math.max(column - 1, 0); j <= Math.min(column + 1, side - 1); j++)
              sum += weight[((o * channels + c) * 3 + i - row + 1) * 3 + j - column + 1] * x[(c * side + i) * side + j];
        out[(o * side + row) * side + column] = sum;
      }
  return out;
}

/** The maximum of each 2 x 2 block. */
function pooled(x, side) {
  const half = side / 2, out = new Float32Array(x.length / 4);
  for (let i = 0; i < out.length; i++) {
    const column = i % half, row = Math.floor(i / half) % half, channel = Math.floor(i / (half * half));
    const at = (channel * side + 2 * row) * side + 2 * column;
    out[i] = Math.max(x[at], x[at + 1], x[at + side], x[at + side + 1]);
  }
  return out;
}

/**
 * net: {activation, layers: [{shape, weight, bias}]}, a shape of four numbers being a convolution, which is activated
 * and pooled, and one of two a fully connected layer. Pixels, 28 x 28 of 0 to 255 -> ten logits.
 */
function logits(net, pixels, mean, std) {
  const activation = ACTIVATIONS[net.activation];
  let x = Float32Array.from(pixels, (v) => f32(f32(f32(v / 255) - f32(mean)) / f32(std))), side = SIDE;
  net.layers.forEach(({ shape, weight, bias }, index) => {
    if (shape.length === 4) {
      x = pooled(convolution(x, side, weight, bias).map(activation), side);
      side /= 2;
    } else {
      x = linear(x, weight, bias);
      if (index + 1 < net.layers.length) x = x.map(activation);
    }
  });
  return x;
}

function softmax(values) {
  const top = Math.max(...values), powers = Array.from(values, (v) => Math.exp(v - top));
  const total = powers.reduce((sum, p) => sum + p, 0);
  return powers.map((p) => p / total);
}

/** Base64 of little-endian float32 -> Float32Array. */
function floats(base64) {
  const text = atob(base64), view = new DataView(new ArrayBuffer(text.length));
  for (let i = 0; i < text.length; i++) view.setUint8(i, text.charCodeAt(i));
  return Float32Array.from({ length: text.length / 4 }, (_, i) => view.getFloat32(4 * i, true));
}

/** The nets as the page carries them -> as `logits` takes them. */
function unpack(net) {
  const layers = net.layers.map(({ shape, weight, bias }) => ({ shape, weight: floats(weight), bias: floats(bias) }));
  return { ...net, layers };
}

if (typeof module !== "undefined") module.exports = { prepare, logits, unpack, softmax, WORKING };
