//! The types that a JSON schema allows.

use serde_json::Value;

/// How many schemas within schemas are looked at for one parameter, so that a schema that names itself ends.
const MAX_SCHEMAS: usize = 200;

/// A set of JSON types; empty where nothing is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Types(u8);

impl Types {
    pub(super) const STRING: Self = Self(1);
    pub(super) const INTEGER: Self = Self(2);
    pub(super) const NUMBER: Self = Self(4);
    pub(super) const BOOLEAN: Self = Self(8);
    pub(super) const OBJECT: Self = Self(16);
    pub(super) const ARRAY: Self = Self(32);
    pub(super) const NULL: Self = Self(64);

    pub(super) fn has(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    fn add(&mut self, other: Self) {
        self.0 |= other.0;
    }

    /// A type by the names that schemas use, JSON's and those of programming languages.
    fn named(name: &str) -> Self {
        let name = name.trim().to_ascii_lowercase();
        let begins = |prefixes: &[&str]| prefixes.iter().any(|prefix| name.starts_with(prefix));
        if begins(&["str", "text", "char", "varchar", "enum"]) {
            Self::STRING
        } else if begins(&["int", "uint", "long", "short", "unsigned"]) {
            Self::INTEGER
        } else if begins(&["num", "float", "double"]) {
            Self::NUMBER
        } else if begins(&["bool"]) {
            Self::BOOLEAN
        } else if begins(&["obj", "dict", "map"]) {
            Self::OBJECT
        } else if begins(&["arr", "list", "tuple"]) {
            Self::ARRAY
        } else if begins(&["null", "none"]) {
            Self::NULL
        } else {
            Self::default()
        }
    }

    fn of_value(value: &Value) -> Self {
        match value {
            Value::Null => Self::NULL,
            Value::Bool(_) => Self::BOOLEAN,
            Value::Number(n) if n.is_f64() => Self::NUMBER,
            Value::Number(_) => Self::INTEGER,
            Value::String(_) => Self::STRING,
            Value::Array(_) => Self::ARRAY,
            Value::Object(_) => Self::OBJECT,
        }
    }

    /// The types that `schema` allows; `root` is what references start from.
    pub(super) fn of(schema: &Value, root: &Value) -> Self {
        Self::counted(schema, root, &mut { MAX_SCHEMAS })
    }

    /// Likewise; `left` counts schemas down.
    fn counted(schema: &Value, root: &Value, left: &mut usize) -> Self {
        let mut types = Self::default();
        let Some(fields) = schema.as_object() else { return types };
        let Some(fewer) = left.checked_sub(1) else { return types };
        *left = fewer;
        match fields.get("type") {
            Some(Value::String(name)) => types.add(Self::named(name)),
            Some(Value::Array(names)) => names.iter().filter_map(Value::as_str).for_each(|n| types.add(Self::named(n))),
            _ => {}
        }
        let listed = fields.get("enum").and_then(Value::as_array).into_iter().flatten().chain(fields.get("const"));
        listed.for_each(|value| types.add(Self::of_value(value)));
        for choices in ["anyOf", "oneOf", "allOf"] {
            for choice in fields.get(choices).and_then(Value::as_array).into_iter().flatten() {
                types.add(Self::counted(choice, root, left));
            }
        }
        if let Some(path) = fields.get("$ref").and_then(Value::as_str).and_then(|r| r.strip_prefix('#'))
            && let Some(target) = root.pointer(path)
        {
            types.add(Self::counted(target, root, left));
        }
        if fields.get("nullable") == Some(&Value::Bool(true)) && types != Self::default() {
            types.add(Self::NULL);
        }
        types
    }
}
