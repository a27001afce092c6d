//! What is wrong with a configuration, and where: every [`ConfigProblem`] names the place that a value came from, its key,
//! what was found and what would be right. They are collected and reported together, in the order of the file.

use std::fmt;
use std::sync::Arc;

use thiserror::Error;

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum ConfigLocation {
    /// A line of the configuration file.
    File {
        /// As it was named.
        path: Arc<str>,
        /// The first is 1.
        line: usize,
    },
    /// The variable's full name.
    Environment(String),
    /// The flag with its dashes.
    Flag(&'static str),
}

impl ConfigLocation {
    /// Values of a file are typed; those of the environment and of flags are text that is read as the type of the key.
    pub fn is_text(&self) -> bool {
        !matches!(self, Self::File { .. })
    }
}

impl fmt::Display for ConfigLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, line } => write!(f, "{path}:{line}"),
            Self::Environment(name) => write!(f, "environment variable {name}"),
            Self::Flag(flag) => f.write_str(flag),
        }
    }
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigProblem {
    /// `None`: the value isn't set.
    pub location: Option<ConfigLocation>,
    /// The key's path, such as `store.bucket`; empty when the problem has none.
    pub key: String,
    /// What was found and what would be right.
    pub text: String,
}

impl ConfigProblem {
    /// A problem at a location.
    pub fn at(location: &ConfigLocation, key: impl Into<String>, text: impl Into<String>) -> Self {
        Self { location: Some(location.clone()), key: key.into(), text: text.into() }
    }
}

impl fmt::Display for ConfigProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(location) = &self.location {
            write!(f, "{location}: ")?;
        }
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.text)
    }
}

/// Everything that is wrong with a configuration: at least one problem.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub struct ConfigProblems(Vec<ConfigProblem>);

impl ConfigProblems {
    /// In the order of the file, then of the environment, the flags, and what is missing.
    pub fn new(mut problems: Vec<ConfigProblem>) -> Self {
        problems.sort_by(|a, b| (a.location.is_none(), &a.location).cmp(&(b.location.is_none(), &b.location)));
        Self(problems)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &ConfigProblem> {
        self.0.iter()
    }
}

impl From<ConfigProblem> for ConfigProblems {
    fn from(problem: ConfigProblem) -> Self {
        Self(vec![problem])
    }
}

impl fmt::Display for ConfigProblems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}
