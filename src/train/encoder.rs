//! Implements [`Encoder`] for an engine: encodes histories in batches, then ranks, selects and predicts on its
//! backend.

use std::ops::Range;

use super::{engine::Engine, scoring::Scoring};
use crate::{
    base::{Error, Result},
    eval::{Answer, Encoder, Fault, Query, Question, Ranks, Scored},
    ops::Backend,
};

impl<B: Backend> Engine<B> {
    /// # Errors
    /// The model was trained to predict ratings and cannot continue a history.
    fn needs_lists(&self) -> Result<()> {
        match self.scale() {
            None => Ok(()),
            Some(_) => Err(Error::user("this run predicts ratings and cannot predict the next items of a history")
                .hint(
                    "evaluate its ratings with `mipgpu eval`; to recommend, train with --task masked-item or next-item",
                )),
        }
    }

    /// Encodes queries batch by batch and calls the given function on each batch while its vectors are on the
    /// backend.
    fn answer<T>(
        &mut self,
        queries: &[Query],
        mut answer: impl FnMut(&Scoring, &mut B, &[Query]) -> Answer<Vec<T>>,
    ) -> Answer<Vec<T>> {
        self.needs_lists()?;
        let mut answers = Vec::with_capacity(queries.len());
        let users = self.scoring().0.users();
        for (i, queries) in queries.chunks(users).enumerate() {
            self.forward_queries(queries);
            let (scoring, backend) = self.scoring();
            let said = answer(scoring, backend, queries);
            answers.extend(said.map_err(|fault| match fault {
                Fault::NotFinite { query, item } => Fault::NotFinite { query: i * users + query, item },
                other => other,
            })?);
        }
        Ok(answers)
    }
}

impl<B: Backend> Encoder for Engine<B> {
    fn width(&self) -> usize {
        self.r.d
    }

    fn items(&self) -> usize {
        self.r.v
    }

    fn item_vectors(&mut self, items: Range<usize>, out: &mut [f32]) -> Result<()> {
        let d = self.r.d;
        self.backend.read(self.r.item.w.slice(items.start * d, items.len() * d).raw(), out);
        self.backend.sync()
    }

    fn item_biases(&mut self, out: &mut [f32]) -> Result<()> {
        self.backend.read(self.r.item_bias.w.first(self.r.v).raw(), out);
        self.backend.sync()
    }

    fn last_basket(&self) -> bool {
        self.asks_last_basket()
    }

    fn encode(&mut self, queries: &[Query<'_>], out: &mut [f32]) -> Result<()> {
        self.needs_lists()?;
        let (users, d) = (self.scoring().0.users(), self.r.d);
        assert_eq!(out.len(), queries.len() * d);
        for (queries, out) in queries.chunks(users).zip(out.chunks_mut(users * d)) {
            self.forward_queries(queries);
            self.backend.read(self.r.scored.y.first(out.len()).raw(), out);
        }
        self.backend.sync()
    }

    fn predict(&mut self, questions: &[Question<'_>]) -> Result<Vec<f32>> {
        let mut all = vec![0.0; questions.len()];
        let users = self.scoring().0.users();
        for (questions, out) in questions.chunks(users).zip(all.chunks_mut(users)) {
            self.forward_questions(questions, out)?;
        }
        self.backend.sync()?;
        Ok(all)
    }

    fn rank(&mut self, queries: &[Query<'_>]) -> Answer<Vec<Ranks>> {
        self.answer(queries, |scoring, b, queries| scoring.rank(b, queries))
    }

    fn top_k(&mut self, queries: &[Query<'_>], k: usize) -> Answer<Vec<Vec<Scored>>> {
        self.answer(queries, |scoring, b, queries| scoring.top_k(b, queries, k))
    }
}
