//! Mixed recipes: more bits for the value and down projections of every third layer and of those at both ends.
//!
//! Ports `mixed_quant_predicate_builder` of `mlx_lm/convert.py` @ 0.32.2, which follows llama.cpp's `Q4_K_M`.

use std::str::FromStr;

use mlxlm_core::quant::{Mode, Scheme};

use crate::{Error, Result};

/// Two widths, and where each is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recipe {
    /// 2 and 6 bits.
    Mixed2_6,
    /// 3 and 4 bits.
    Mixed3_4,
    /// 3 and 6 bits.
    Mixed3_6,
    /// 4 and 6 bits.
    Mixed4_6,
}

impl Recipe {
    /// All recipes.
    pub const ALL: [Self; 4] = [Self::Mixed2_6, Self::Mixed3_4, Self::Mixed3_6, Self::Mixed4_6];

    /// The name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Mixed2_6 => "mixed_2_6",
            Self::Mixed3_4 => "mixed_3_4",
            Self::Mixed3_6 => "mixed_3_6",
            Self::Mixed4_6 => "mixed_4_6",
        }
    }

    const fn bits(self) -> (i32, i32) {
        match self {
            Self::Mixed2_6 => (2, 6),
            Self::Mixed3_4 => (3, 4),
            Self::Mixed3_6 => (3, 6),
            Self::Mixed4_6 => (4, 6),
        }
    }

    /// What the recipe says of each path, for a model of `layers` layers with these leaves.
    pub fn schemes(
        self,
        paths: &[String],
        layers: usize,
        group_size: i32,
    ) -> Result<impl Fn(&str) -> Result<Scheme> + use<>> {
        let down = paths.iter().find(|path| path.contains("down_proj"));
        let place = down.and_then(|path| path.split('.').position(|part| part.parse::<usize>().is_ok()));
        let place = place.ok_or(Error::RecipeModel { recipe: self.name() })?;
        Ok(move |path: &str| {
            let layer = path.split('.').nth(place).and_then(|part| part.parse().ok()).unwrap_or(0);
            let has = |part: &str| path.contains(part);
            let values = has("v_proj") || has("v_a_proj") || has("v_b_proj");
            let (low, high) = self.bits();
            let more = (values || has("down_proj")) && gets_more(layer, layers) || has("lm_head");
            Ok(Scheme::new(Mode::Affine, if more { high } else { low }, group_size)?)
        })
    }
}

/// The first and the last eighth of the layers, and every third one between.
fn gets_more(layer: usize, layers: usize) -> bool {
    let eighth = layers / 8;
    layer < eighth || layer >= 7 * layers / 8 || (layer - eighth) % 3 == 2
}

impl FromStr for Recipe {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let found = Self::ALL.into_iter().find(|recipe| recipe.name() == name);
        found.ok_or_else(|| Error::UnknownRecipe { name: name.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_layers_that_get_more_are_those_of_the_reference() {
        let more = |layers| (0..layers).filter(|&layer| gets_more(layer, layers)).collect::<Vec<_>>();
        assert_eq!(more(16), [0, 1, 4, 7, 10, 13, 14, 15]);
        assert_eq!(more(4), [2, 3]);
    }

    #[test]
    fn names_are_read_back() {
        for recipe in Recipe::ALL {
            assert_eq!(recipe.name().parse::<Recipe>().unwrap(), recipe);
        }
        assert!(matches!("mixed_1_2".parse::<Recipe>(), Err(Error::UnknownRecipe { .. })));
    }

    #[test]
    fn a_model_without_down_projections_has_no_recipe() {
        let paths = ["model.layers.0.mlp.fc1".to_owned()];
        assert!(matches!(Recipe::Mixed3_6.schemes(&paths, 1, 64), Err(Error::RecipeModel { .. })));
    }

    #[test]
    fn the_head_and_the_values_get_more_bits() {
        let paths = ["model.layers.0.mlp.down_proj".to_owned()];
        let scheme = Recipe::Mixed2_6.schemes(&paths, 4, 32).unwrap();
        let bits = |path: &str| scheme(path).unwrap().bits;
        assert_eq!(bits("lm_head"), 6);
        assert_eq!(bits("model.layers.2.self_attn.v_proj"), 6);
        assert_eq!(bits("model.layers.0.self_attn.v_proj"), 2);
        assert_eq!(bits("model.layers.2.self_attn.q_proj"), 2);
        assert_eq!(bits("model.embed_tokens"), 2);
    }
}
