//! The store's promises, tried on real files: what was acknowledged is there, what was not is not, and whatever happened to the files in between
//! is either repaired and told, or refused by name.

mod archived;
mod archiving;
mod care;
mod damage;
mod faults;
mod ordinary;
mod trust;
mod world;
