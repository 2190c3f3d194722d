//! Going back by a few tokens, whatever the kind of cache: as after proposed tokens that turned out wrong.

use crate::{Caches, LayerCache, Result};

/// Where caches were before some tokens, to go back to. See [`Caches::mark`].
#[derive(Debug, Clone)]
pub struct Mark(Vec<LayerMark>);

#[derive(Debug, Clone)]
enum LayerMark {
    /// The tokens read: those after them are taken back by counting.
    Read(i32),
    /// The cache itself, where tokens cannot be taken back.
    Whole(LayerCache),
    List(Vec<LayerMark>),
}

impl Caches {
    /// Notes where the caches are, before at most `n` tokens are read that may have to be taken back.
    ///
    /// Unlike a [snapshot](Self::snap) it does not hold on to keys and values that only grow, so nothing is copied when tokens
    /// are added: states, and rings that are full, are replaced by every pass of several tokens anyway.
    pub fn mark(&self, n: i32) -> Mark {
        Mark(self.layers().iter().map(|layer| layer.mark(n)).collect())
    }

    /// Whether `n` tokens that are read in one pass see what they would one by one. A full ring that keeps its first tokens shows
    /// others to tokens that come together.
    pub fn sees_alike(&self, n: i32) -> bool {
        self.layers().iter().all(|layer| layer.sees_alike(n))
    }

    /// Has the operands of the next pass kept where states are recurrent, for [`take_back`](Self::take_back); or no longer.
    pub fn note_pass(&mut self, noted: bool) {
        self.layers_mut().iter_mut().for_each(|layer| layer.note_pass(noted));
    }

    /// Takes back all but the first `left` tokens, one at least, of the one pass since a mark, which was [noted](Self::note_pass):
    /// `false`, and nothing changes, where a layer cannot, which can only [go back to the mark](Self::rewind). The caches are
    /// those that a pass of the tokens left would have made, bit for bit.
    pub fn take_back(&mut self, mark: &Mark, left: i32) -> Result<bool> {
        let mut layers = self.layers().iter().zip(&mark.0);
        if !layers.all(|(layer, mark)| layer.can_take_back(mark)) {
            return Ok(false);
        }
        self.layers_mut().iter_mut().zip(&mark.0).try_for_each(|(layer, mark)| layer.take_back(mark, left))?;
        Ok(true)
    }

    /// Goes back to a mark of these caches, from which no more tokens were read than it was made for.
    pub fn rewind(&mut self, mark: Mark) {
        self.layers_mut().iter_mut().zip(mark.0).for_each(|(layer, mark)| layer.rewind(mark));
    }
}

impl LayerCache {
    fn mark(&self, n: i32) -> LayerMark {
        match self {
            Self::Kv(cache) => LayerMark::Read(cache.offset),
            Self::Rotating(cache) if cache.offset.saturating_add(n) < cache.max_size => LayerMark::Read(cache.offset),
            Self::Chunked(cache) if cache.offset - cache.start <= cache.chunk_size => LayerMark::Read(cache.offset),
            Self::List(caches) => LayerMark::List(caches.iter().map(|cache| cache.mark(n)).collect()),
            whole => LayerMark::Whole(whole.clone()),
        }
    }

    fn sees_alike(&self, n: i32) -> bool {
        match self {
            Self::Rotating(cache) => cache.keep == 0 || cache.offset.saturating_add(n) < cache.max_size,
            Self::List(caches) | Self::Rows(caches) => caches.iter().all(|cache| cache.sees_alike(n)),
            _ => true,
        }
    }

    fn can_take_back(&self, mark: &LayerMark) -> bool {
        match (self, mark) {
            // The front of a chunk is cut before a pass, by no more than its first query does not see.
            (_, LayerMark::Read(_)) | (Self::Chunked(_), LayerMark::Whole(_)) => true,
            (Self::State(state), LayerMark::Whole(_)) => state.is_replayable(),
            (Self::Rotating(ring), LayerMark::Whole(before)) => ring.ends_in_pass() && ring.offset - before.read() > 1,
            (Self::List(caches), LayerMark::List(marks)) => {
                caches.iter().zip(marks).all(|(cache, mark)| cache.can_take_back(mark))
            }
            _ => false,
        }
    }

    fn take_back(&mut self, mark: &LayerMark, left: i32) -> Result<()> {
        match (self, mark) {
            (Self::State(state), LayerMark::Whole(_)) => state.replay(left)?,
            (Self::Rotating(ring), LayerMark::Whole(before)) => ring.take_back(ring.offset - before.read() - left)?,
            (Self::Chunked(chunk), LayerMark::Whole(before)) => {
                chunk.trim(chunk.offset - before.read() - left);
            }
            (Self::List(caches), LayerMark::List(marks)) => {
                for (cache, mark) in caches.iter_mut().zip(marks) {
                    cache.take_back(mark, left)?;
                }
            }
            (layer, LayerMark::Read(read)) => {
                layer.trim(layer.read() - read - left);
            }
            (_, LayerMark::Whole(_) | LayerMark::List(_)) => {}
        }
        Ok(())
    }

    fn rewind(&mut self, mark: LayerMark) {
        match (self, mark) {
            (Self::List(caches), LayerMark::List(marks)) => {
                caches.iter_mut().zip(marks).for_each(|(cache, mark)| cache.rewind(mark));
            }
            (layer, LayerMark::Whole(whole)) => *layer = whole,
            (layer, LayerMark::Read(read)) => {
                let surplus = layer.read().saturating_sub(read);
                layer.trim(surplus);
            }
            (_, LayerMark::List(_)) => {}
        }
    }
}
