// What a sampler makes of a distribution: temperature, top-k, top-p and min-p, in the order in which olc applies them
// (openllama_cli/generation/decode/processors.py).
//
// The server reports the most likely tokens of a position and the exact entropy of all of them. The rest, thousands of tokens,
// stands here as one group: `count` tokens of equal probability with the rest's total and entropy. Without temperature and cuts
// that is exact; a temperature T changes the rest's share exactly to first order in 1/T - 1, whose derivative is that entropy.

const LN2 = Math.LN2;
// The stages of a trace that change logits before the temperature does.
const PENALTIES = ["logit bias", "repetition penalty", "frequency and presence", "DRY"];

/** Surprisal of a log-probability (natural), in bits. */
export const bits = (logprob) => Math.max(0, -logprob / LN2);

/** Entropy of probabilities with counts, in bits. */
export function entropyOf(groups) {
  return groups.reduce((sum, { p, count }) => (p > 0 ? sum - count * p * Math.log2(p) : sum), 0);
}

/** The tokens of a position: those reported, and those that stand there in some branch. Returns [{id, text, logprob}]. */
export function candidates(node, siblings) {
  const reported = new Set(node.top.map(({ id }) => id));
  const others = siblings.filter(({ id, logprob }) => !reported.has(id) && logprob !== null);
  return [...node.top, ...others.map(({ id, piece, logprob }) => ({ id, text: piece, logprob }))];
}

/**
 * A position's tokens in groups: one for each reported token, and one for the rest if it matters, in descending order.
 *
 * top: [{id, text, logprob}] in any order. entropy: of the whole distribution in bits, or null if it is not known.
 * more: [{id, logprob}] of further tokens, which are not named. Returns [{token, p, count}], where token is null for the unnamed.
 */
export function groupsOf(top, entropy, more = []) {
  const named = new Set(top.map(({ id }) => id));
  const unnamed = more.filter(({ id }) => !named.has(id)).map(({ logprob }) => ({ token: null, p: Math.exp(logprob), count: 1 }));
  const groups = [...top.map((token) => ({ token, p: Math.exp(token.logprob), count: 1 })), ...unnamed];
  const rest = 1 - groups.reduce((sum, { p }) => sum + p, 0);
  const least = Math.min(...groups.map(({ p }) => p), 1);
  if (rest > 1e-5 && groups.length > 0) {
    const missing = entropy === null || entropy === undefined ? 0 : entropy - entropyOf(groups);
    // No token of the rest is more likely than the least likely one of those reported, unless that was sampled from the rest.
    const surprisal = Math.max(missing / rest, -Math.log2(Math.max(least, rest / 1e6)), -Math.log2(rest));
    const count = Math.max(1, rest * 2 ** surprisal);
    groups.push({ token: null, p: rest / count, count });
  }
  return groups.sort((a, b) => b.p - a.p);
}

/**
 * What sampling makes of groups in descending order.
 *
 * settings: {temperature, topK, topP, minP}; 0, 0, 1, 0 switch them off, and a temperature of 0 is greedy.
 * Returns them in the same order, each with `q`, the probability of one of its kept tokens; `kept`, how many of `count` those
 * are; and `cut`, what cut the others: "top-k", "top-p", "min-p", or null. Greedy, none is cut, and all but one have no chance.
 */
export function sampled(groups, settings) {
  const { temperature, topK, topP, minP } = settings;
  if (groups.length === 0) return [];
  if (temperature < 1e-8) {
    return groups.map((group, place) =>
      place === 0 ? { ...group, q: 1, kept: 1, cut: null } : { ...group, q: 0, kept: 0, cut: null },
    );
  }
  // Relative to the most likely one, so that low temperatures do not underflow to 0 everywhere.
  let all = groups.map((group) => ({ ...group, q: (group.p / groups[0].p) ** (1 / temperature), kept: group.count, cut: null }));
  all = normalized(all);
  if (topK > 0) {
    let left = topK;
    for (const group of all) left -= keep(group, Math.min(group.kept, left), "top-k");
    all = normalized(all);
  }
  if (topP < 1) {
    // A token is cut if it and all that are less likely have together no more than 1 - topP. The most likely one stays.
    let budget = 1 - topP;
    for (const group of [...all].reverse()) {
      const most = group.q > 0 ? Math.floor(budget / group.q + 1e-9) : group.kept;
      const lost = Math.min(most, group.kept);
      budget = lost < group.kept ? -1 : budget - lost * group.q;
      keep(group, group === all[0] ? group.kept : group.kept - Math.max(0, lost), "top-p");
      if (budget < 0) break;
    }
    all = normalized(all);
  }
  if (minP > 0) {
    for (const group of all) if (group.q < minP * all[0].q) keep(group, 0, "min-p");
    all = normalized(all);
  }
  return all;
}

function keep(group, kept, by) {
  if (kept < group.kept - 1e-9) group.cut = by;
  group.kept = kept;
  if (kept === 0) group.q = 0;
  return kept;
}

function normalized(groups) {
  const sum = groups.reduce((total, { q, kept }) => total + q * kept, 0);
  return groups.map((group) => ({ ...group, q: group.q / sum }));
}

/** Sampled groups as they are shown, totals in `p` and `q`: the named in descending order, then all others as one. */
export function collected(all) {
  const total = (group) => ({ ...group, p: group.p * group.count, q: group.q * group.kept });
  const unnamed = all.filter(({ token }) => token === null);
  const sum = (name) => unnamed.map(total).reduce((value, group) => value + group[name], 0);
  const others = { token: null, cut: unnamed.find(({ cut }) => cut)?.cut ?? null };
  for (const name of ["p", "q", "count", "kept"]) others[name] = sum(name);
  return [...all.filter(({ token }) => token !== null).map(total), ...(unnamed.length > 0 ? [others] : [])];
}

const SAMPLERS = ["temperature", "topK", "topP", "minP"];

/** Whether two settings make the same of a distribution. */
export function alike(one, other) {
  const greedy = one.temperature < 1e-8 && other.temperature < 1e-8;
  return greedy || SAMPLERS.every((name) => one[name] === other[name]);
}

/**
 * What the server's processors made of a position, as `collected` gives it: a trace's candidates, then all others as one.
 *
 * tokens: those of the position, [{id, text, logprob}]. Returns {columns, groups}: the steps between the model and the draw that
 * changed something, of "penalized" and "tempered", and groups with their probabilities after these as `steps`. Of tokens that
 * are no candidates it is not known what became of them (`steps` of null, and `kept` too).
 */
export function traced({ candidates: all, stages }, tokens) {
  const penalized = stages.some((name) => PENALTIES.includes(name)) || all.some((one) => one.cut === "never");
  const columns = [...(penalized ? ["penalized"] : []), ...(all[0].tempered === null ? [] : ["tempered"])];
  const found = new Map(all.map((one) => [one.token, one]));
  const groups = tokens.map((token) => {
    const one = found.get(token.id);
    const p = one?.model ?? Math.exp(token.logprob);
    if (!one) return { token, p, q: 0, kept: null, cut: null, steps: columns.map(() => null) };
    return { token, p, q: one.drawn, kept: one.cut === null ? 1 : 0, cut: one.cut, steps: columns.map((name) => one[name]) };
  });
  groups.sort((a, b) => b.p - a.p);
  const rest = (value) => {
    const left = 1 - groups.reduce((sum, group) => sum + (value(group) ?? 0), 0);
    return left > 1e-5 ? left : 0;
  };
  const others = { token: null, p: rest(({ p }) => p), q: rest(({ q }) => q), kept: 1, cut: null, steps: columns.map((_, place) => rest(({ steps }) => steps[place])) };
  return { columns, groups: others.p > 0 || others.q > 0 ? [...groups, others] : groups };
}

/** What is left: {cut: the model's probability that was cut away, tokens: how many are drawn from, entropy: in bits}. */
export function summary(all) {
  return {
    cut: Math.max(0, 1 - all.reduce((sum, { p, kept }) => sum + p * kept, 0)),
    tokens: all.reduce((sum, { kept }) => sum + kept, 0),
    entropy: entropyOf(all.map(({ q, kept }) => ({ p: q, count: kept }))),
  };
}

/** A probability as people read it: 23 %, 1.2 %, 0.04 %, <0.01 %. */
export function percent(p) {
  const value = p * 100;
  if (value >= 99.95 && value < 100 - 1e-9) return ">99.9 %";
  if (value >= 9.95) return `${value.toFixed(value >= 99.95 ? 0 : value < 99 ? 0 : 1)} %`;
  if (value >= 0.995) return `${value.toFixed(1)} %`;
  if (value >= 0.005) return `${value.toFixed(2)} %`;
  return value > 0 ? "<0.01 %" : "0 %";
}
