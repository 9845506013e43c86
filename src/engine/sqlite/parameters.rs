//! Values for the parameters of a statement.
//!
//! Must not know where queries come from.

use std::collections::HashMap;

use super::error::while_running;
use super::ffi::Statement;
use crate::engine::{CancelToken, EngineError, EngineErrorKind};
use crate::rows::{Params, Value};

/// Binds every parameter of the statement, and refuses those it does not have.
pub(super) fn bind(statement: &mut Statement, params: &Params, cancel: &CancelToken) -> Result<(), EngineError> {
    let n_wanted = statement.n_parameters();
    let values: Vec<&Value> = match params {
        Params::None if n_wanted == 0 => return Ok(()),
        Params::None => return Err(unfit(n_wanted, 0)),
        Params::Positional(values) if values.len() == n_wanted => values.iter().collect(),
        Params::Positional(values) => return Err(unfit(n_wanted, values.len())),
        Params::Named(values) => in_order(statement, values)?,
    };
    for (idx, value) in values.into_iter().enumerate() {
        statement
            .bind(idx + 1, value)
            .map_err(|failure| while_running(failure, cancel))?;
    }
    Ok(())
}

/// The values in the order of the statement's parameters, with one look-up for each.
fn in_order<'a>(statement: &Statement, values: &'a [(String, Value)]) -> Result<Vec<&'a Value>, EngineError> {
    let mut by_name = HashMap::with_capacity(values.len());
    for (name, value) in values {
        // Of two values for one name, the first is bound.
        by_name.entry(name.as_str()).or_insert((value, false));
    }
    let mut in_order = Vec::with_capacity(statement.n_parameters());
    for n in 1..=statement.n_parameters() {
        let Some(name) = statement.parameter_name(n) else {
            let text = format!("parameter {n} has no name: give the values of the query in order");
            return Err(refused(text));
        };
        let bare = name.get(1..).unwrap_or_default();
        let Some((value, is_bound)) = by_name.get_mut(bare) else {
            return Err(refused(format!("parameter {bare:?} has no value")));
        };
        *is_bound = true;
        in_order.push(*value);
    }
    match values
        .iter()
        .find(|(name, _)| by_name.get(name.as_str()).is_some_and(|(_, is_bound)| !is_bound))
    {
        Some((name, _)) => Err(refused(format!("the query has no parameter called {name:?}"))),
        None => Ok(in_order),
    }
}

fn refused(text: String) -> EngineError {
    EngineError::new(EngineErrorKind::Parameter, text)
}

fn unfit(n_wanted: usize, n_given: usize) -> EngineError {
    let plural = |n: usize| if n == 1 { "" } else { "s" };
    refused(format!(
        "the query has {n_wanted} parameter{}, but got {n_given} value{}",
        plural(n_wanted),
        plural(n_given)
    ))
}
