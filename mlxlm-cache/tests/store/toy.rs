//! A model that is nothing but caches: what it remembers of a token follows from the token and its place, and what it says from all that
//! it remembers. So caches that were restored can be held against those of a prompt that was read whole.

use mlxlm_cache::store::{Checkpoint, Hit, Key, PromptStore};
use mlxlm_cache::{Attend, CacheKind, Caches, KvFormat, LayerCache, Masks, appended};
use mlxlm_core::ops::indexing::TryIndexOp;
use mlxlm_core::{Array, Dtype, transforms};

use crate::common::{bits, numbers};

const HEADS: usize = 2;
const WIDTH: usize = 32;
/// The rows that a compressed layer slides over.
const WINDOW: i32 = 5;

#[derive(Debug, Clone)]
pub(crate) struct Toy {
    pub(crate) kinds: Vec<CacheKind>,
    pub(crate) format: Option<KvFormat>,
    pub(crate) dtype: Dtype,
    /// The tokens that are read at once.
    pub(crate) step: usize,
}

impl Toy {
    pub(crate) fn of(kinds: &[CacheKind]) -> Self {
        Self { kinds: kinds.to_vec(), format: None, dtype: Dtype::Float32, step: 7 }
    }

    pub(crate) fn caches(&self) -> Caches {
        let mut caches = Caches::new(&self.kinds);
        if let Some(format) = self.format {
            caches.quantize(format, 0).unwrap();
        }
        caches
    }

    /// Reads the tokens `from..to` of a sequence, and says what it makes of all.
    pub(crate) fn read(&self, caches: &mut Caches, tokens: &[u32], from: usize, to: usize) -> Vec<f32> {
        let mut said = Vec::new();
        let mut at = from;
        while at < to {
            let end = (at + self.step).min(to);
            said.clear();
            for (i, layer) in caches.layers_mut().iter_mut().enumerate() {
                self.layer(layer, &tokens[at..end], at, i as u32, &mut said);
            }
            transforms::eval(caches.arrays()).unwrap();
            at = end;
        }
        said
    }

    fn layer(&self, layer: &mut LayerCache, tokens: &[u32], at: usize, salt: u32, said: &mut Vec<f32>) {
        match layer {
            LayerCache::List(caches) => {
                for (i, cache) in caches.iter_mut().enumerate() {
                    self.layer(cache, tokens, at, salt * 31 + i as u32 + 7, said);
                }
            }
            LayerCache::State(state) => {
                let mut now = state.get(0).unwrap().as_ref().map_or(vec![0.0; 4], numbers);
                for (p, &token) in (at..).zip(tokens) {
                    let draw = drawn(token, p, salt);
                    now.iter_mut().enumerate().for_each(|(i, x)| *x = *x * 0.75 + draw(i));
                }
                said.extend(&now);
                // As real states are, a part of something larger.
                let larger = Array::from_slice(&[vec![9.0; 4096], now].concat(), &[1, 4100]);
                state.set(0, larger.try_index((.., 4096..)).unwrap(), None).unwrap();
            }
            LayerCache::Compressed(cache) => {
                for (p, &token) in (at..).zip(tokens) {
                    let draw = drawn(token, p, salt);
                    let row = Array::from_slice(&[draw(0), draw(1)], &[1, 1, 2]);
                    let seen = cache.slide(&row, WINDOW).unwrap();
                    if p % 4 == 3 {
                        cache.compressed = Some(appended(cache.compressed.as_ref(), &row).unwrap());
                    }
                    if p + 1 == at + tokens.len() {
                        said.extend(numbers(&seen));
                        said.extend(cache.compressed.iter().flat_map(numbers));
                    }
                }
            }
            _ => {
                let part = |kind: usize| {
                    let value =
                        |h: usize, p: usize, x: usize| drawn(tokens[p], at + p, salt)((kind * HEADS + h) * WIDTH + x);
                    let len = tokens.len();
                    let all = (0..HEADS * len * WIDTH).map(|i| value(i / (len * WIDTH), i / WIDTH % len, i % WIDTH));
                    let shape = [1, HEADS as i32, len as i32, WIDTH as i32];
                    Array::from_slice(&all.collect::<Vec<f32>>(), &shape).as_dtype(self.dtype).unwrap()
                };
                let how = Attend::scaled(0.3);
                let y = layer.attend(&part(0), &part(1), &part(2), &how, &Masks::default()).unwrap();
                said.extend(numbers(&y.try_index((.., .., -1.., ..)).unwrap()));
            }
        }
    }

    /// What it says of a sequence that it reads from its first token.
    pub(crate) fn fresh(&self, tokens: &[u32]) -> Vec<f32> {
        self.read(&mut self.caches(), tokens, 0, tokens.len())
    }

    /// Reads `prompt` as an engine does, with what the store knows, then `answer`, and gives the store what it has then. Says how many
    /// tokens were known, and what it makes of the prompt.
    pub(crate) fn serve(
        &self,
        store: &mut PromptStore,
        key: &Key,
        prompt: &[u32],
        answer: &[u32],
        turns: &[usize],
    ) -> (usize, Vec<f32>) {
        let hit = store.fetch(key, prompt);
        let Hit { mut caches, tokens: known, mut checkpoints } =
            hit.unwrap_or_else(|| Hit { caches: self.caches(), tokens: 0, checkpoints: Vec::new() });
        caches.check_fits(&self.kinds).unwrap();
        let cuts = match Checkpoint::are_needed(&self.kinds) {
            true => store.cuts(key, prompt, known, turns),
            false => Vec::new(),
        };
        let mut at = known;
        for cut in cuts {
            self.read(&mut caches, prompt, at, cut);
            checkpoints.push(Checkpoint::take(&caches, cut).unwrap());
            at = cut;
        }
        let said = self.read(&mut caches, prompt, at, prompt.len());
        let all = [prompt, answer].concat();
        self.read(&mut caches, &all, prompt.len(), all.len());
        store.insert(key, &all, caches, checkpoints).unwrap();
        (known, said)
    }
}

/// Numbers that follow from a token, its place and a layer.
fn drawn(token: u32, place: usize, salt: u32) -> impl Fn(usize) -> f32 {
    let seed = u64::from(token) << 40 ^ (place as u64) << 20 ^ u64::from(salt) << 12;
    move |i| {
        let mut x = (seed ^ i as u64).wrapping_add(0x9E37_79B9_7F4A_7C15);
        x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((x ^ (x >> 31)) >> 40) as f32 / 16_777_216.0 - 0.5
    }
}

pub(crate) fn key(model: &str) -> Key {
    Key { model: model.into(), adapter: String::new() }
}

/// The sets of kinds that models have.
pub(crate) fn models() -> Vec<Toy> {
    let (kv, state) = (CacheKind::Kv, CacheKind::State { slots: 2 });
    let ring = CacheKind::Rotating { max_size: 6, keep: 0 };
    let of = |kinds: &[CacheKind]| Toy::of(kinds);
    vec![
        of(&[kv.clone(), kv.clone()]),
        Toy { format: Some(KvFormat::mixed([8, 4], 32).unwrap()), ..of(&[kv.clone()]) },
        Toy { dtype: Dtype::Bfloat16, ..of(&[kv.clone(), ring.clone()]) },
        Toy { format: Some(bits(4).rotated([true, false])), dtype: Dtype::Float16, ..of(&[ring.clone(), kv.clone()]) },
        Toy { step: 1, ..of(&[CacheKind::Rotating { max_size: 6, keep: 2 }]) },
        of(&[state.clone()]),
        of(&[state.clone(), kv.clone()]),
        of(&[CacheKind::Chunked { chunk_size: 5 }, kv.clone()]),
        Toy { format: Some(bits(6)), ..of(&[CacheKind::Chunked { chunk_size: 5 }]) },
        of(&[CacheKind::List(vec![state.clone(), kv.clone()])]),
        of(&[CacheKind::List(vec![kv.clone(), kv])]),
        of(&[CacheKind::Compressed, state]),
    ]
}
