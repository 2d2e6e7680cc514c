/*! The k-core: users with fewer than `min_user` and items with fewer than `min_item` interactions are removed
repeatedly until none is below its minimum. The fixed point is unique: it is the largest part of the log in which all
have enough, whatever the order of removal (Seidman, "Network structure and minimum degree", 1983). A single pass, as in
some tools, does not give a core: removing an item may leave a user short.

Interactions stay in their shards; only counts and flags are in memory, a few bytes per user and item.
*/

use std::path::Path;

use crate::{
    base::{Error, Result},
    data::{history::Gathered, manifest::FileEntry, shard::Shard, write::ShardWriter},
};

/// The remaining users and items.
pub(crate) struct Core {
    pub users: Vec<bool>,
    pub items: Vec<bool>,
    /// Number of passes that removed a user or an item.
    pub rounds: usize,
}

/// Finds the core of the data in `shards`. `user_counts`, `item_counts`: interactions of each. `check` is called
/// between shards and may cancel.
pub(crate) fn find(
    dir: &Path,
    shards: &[FileEntry],
    mut user_counts: Vec<u32>,
    mut item_counts: Vec<u32>,
    min_user: u32,
    min_item: u32,
    check: &dyn Fn() -> Result<()>,
) -> Result<Core> {
    let mut core = Core { users: vec![true; user_counts.len()], items: vec![true; item_counts.len()], rounds: 0 };
    loop {
        let fallen =
            drop_below(&mut core.users, &user_counts, min_user) | drop_below(&mut core.items, &item_counts, min_item);
        if !fallen {
            return Ok(core);
        }
        core.rounds += 1;
        user_counts.fill(0);
        item_counts.fill(0);
        for entry in shards {
            check()?;
            // Only one shard is mapped at a time, which bounds resident memory.
            let shard = Shard::open(&dir.join(&entry.name))?;
            for local in 0..shard.users() {
                let user = shard.first_user + local;
                if core.users[user] {
                    for &item in &shard.items()[shard.range(local)] {
                        if core.items[item as usize] {
                            user_counts[user] += 1;
                            item_counts[item as usize] += 1;
                        }
                    }
                }
            }
        }
    }
}

/// Removes those with fewer than `min`; returns whether there were any.
fn drop_below(alive: &mut [bool], counts: &[u32], min: u32) -> bool {
    let mut fallen = false;
    for (alive, &count) in alive.iter_mut().zip(counts) {
        // Users and items without interactions are removed even without a minimum.
        if *alive && count < min.max(1) {
            *alive = false;
            fallen = true;
        }
    }
    fallen
}

/// Writes what remains of `shards` to `writer`, with items renumbered in their old order. Returns the item counts.
pub(crate) fn write(dir: &Path, shards: &[FileEntry], core: &Core, writer: &mut ShardWriter) -> Result<Vec<u32>> {
    let mut new_id = vec![0u32; core.items.len()];
    let mut next = 0;
    for (id, _) in core.items.iter().enumerate().filter(|(_, alive)| **alive) {
        new_id[id] = next;
        next += 1;
    }
    let mut counts = vec![0u32; next as usize];
    let mut left = Gathered::default();
    for entry in shards {
        let shard = Shard::open(&dir.join(&entry.name))?;
        for local in (0..shard.users()).filter(|local| core.users[shard.first_user + local]) {
            let history = shard.history(local);
            left.clear();
            for (at, &item) in history.items.iter().enumerate() {
                if core.items[item as usize] {
                    let item = new_id[item as usize];
                    counts[item as usize] += 1;
                    left.take(history, at, item);
                }
            }
            writer.push(left.history())?;
        }
    }
    if counts.is_empty() {
        return Err(Error::user("nothing is left: every user and item was filtered away")
            .hint("lower --min-user and --min-item"));
    }
    Ok(counts)
}
