//! What comes out of a stream, and the whole of it.

/// A step of a model's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Delta {
    /// Text of the answer.
    Text(String),
    /// Text of the reasoning.
    Reasoning(String),
    /// A call begins. Calls do not overlap.
    CallStart {
        /// The place of the call among those of the answer, from 0.
        index: usize,
        /// Its id: the model's own, where the format has one, else made from [`StreamOptions::first_id`](super::StreamOptions).
        id: String,
        /// The name of the tool, whether there is such a tool or not.
        name: String,
    },
    /// The next part of a call's arguments, which are JSON once they are complete.
    CallArguments {
        /// As in [`Delta::CallStart`].
        index: usize,
        /// The part.
        delta: String,
    },
    /// A call ends.
    CallEnd {
        /// As in [`Delta::CallStart`].
        index: usize,
        /// Whether the arguments are complete. Those that are not must not be acted upon.
        is_whole: bool,
    },
    /// Text between a format's markers that is no call of the format, or what follows where a call goes wrong.
    Invalid(Invalid),
}

/// What a model wrote in place of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalid {
    /// The text with its markup.
    pub text: String,
    /// Why it is no call.
    pub reason: String,
}

/// A call of a tool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// Its id.
    pub id: String,
    /// The name of the tool.
    pub name: String,
    /// The arguments in JSON.
    pub arguments: String,
    /// Whether the arguments are complete.
    pub is_whole: bool,
}

/// An answer that was taken apart: the sum of its deltas.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reply {
    /// The text.
    pub text: String,
    /// The reasoning.
    pub reasoning: String,
    /// The calls in their order.
    pub calls: Vec<Call>,
    /// What should have been calls.
    pub invalid: Vec<Invalid>,
}

impl Extend<Delta> for Reply {
    fn extend<T: IntoIterator<Item = Delta>>(&mut self, deltas: T) {
        for delta in deltas {
            match delta {
                Delta::Text(text) => self.text += &text,
                Delta::Reasoning(text) => self.reasoning += &text,
                Delta::CallStart { id, name, .. } => {
                    self.calls.push(Call { id, name, arguments: String::new(), is_whole: false });
                }
                Delta::CallArguments { index, delta } => {
                    if let Some(call) = self.calls.get_mut(index) {
                        call.arguments += &delta;
                    }
                }
                Delta::CallEnd { index, is_whole } => {
                    if let Some(call) = self.calls.get_mut(index) {
                        call.is_whole = is_whole;
                    }
                }
                Delta::Invalid(invalid) => self.invalid.push(invalid),
            }
        }
    }
}
