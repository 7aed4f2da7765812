//! The one RocksDB of a store: its families, its options, its syncs, and its poison.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::sync::OnceLock;

use engine::ids::{Gsn, VolumeId};
use parking_lot::RwLock;
use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamily, ColumnFamilyDescriptor, DB, DBRawIterator,
    DBRecoveryMode, LruCacheOptions, ReadOptions, SliceTransform, WriteBatch, WriteOptions,
};

use crate::schema;
use crate::sync_gate::SyncGate;
use crate::synced::SyncedMark;
use crate::{Options, StoreError};

/// Column families. All share one write-ahead log, so one fsync covers a batch over any of
/// them, and what survives power loss is a prefix of all writes together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Accepted entries, promised ballots, started lanes.
    Log,
    /// GSN → agreement.
    Order,
    /// The agreed tables and where they stand.
    Tables,
    /// This node's own: index of bodies, stages, parts, and what other code keeps.
    Local,
    /// Identity and boot counter.
    Meta,
}

impl Family {
    const ALL: [Family; 5] =
        [Family::Log, Family::Order, Family::Tables, Family::Local, Family::Meta];

    fn name(self) -> &'static str {
        match self {
            Family::Log => "log",
            Family::Order => "order",
            Family::Tables => "tables",
            Family::Local => "local",
            Family::Meta => "meta",
        }
    }
}

/// Keys of the tables begin `| volume u32 | generation u8 | table u8 | inode u64 |`: a scan
/// within one directory can skip files whose filter does not know this prefix.
const TABLES_FILTER_PREFIX_BYTES: usize = 14;

/// 10 bits per key: one false answer in a hundred, the usual choice.
const FILTER_BITS_PER_KEY: f64 = 10.0;

/// Bounds the log that a restart replays, and the memory that waits to be flushed for it.
const WAL_BYTES_MAX: u64 = 256 << 20;

/// The live state of a volume's tables.
#[derive(Clone, Copy, Debug)]
pub struct VolumeState {
    pub generation: u8,
    pub gsn: Gsn,
    /// Bytes of all order records that were ever stored.
    pub order_bytes: u64,
}

/// What is expected of a directory that is opened as a database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Nothing: one is made.
    New,
    Sound,
    /// Perhaps something can still be read. Nothing is written.
    Damaged,
}

/// Sees a key and its value; says whether it wants more.
pub type Visit<'a> = dyn FnMut(&[u8], &[u8]) -> Result<bool, StoreError> + 'a;

pub struct Database {
    db: DB,
    gate: SyncGate,
    synced: SyncedMark,
    poison: OnceLock<String>,
    damage: OnceLock<String>,
    /// What the volume records say, kept here because every read needs the generation.
    pub volumes: RwLock<BTreeMap<VolumeId, VolumeState>>,
    // After `db`, so that the lock is released when the database is closed.
    _lock: File,
}

impl Database {
    /// Opens the database in `dir`, or makes it.
    pub fn open(
        dir: &Path,
        synced: SyncedMark,
        options: &Options,
        place: Place,
        lock: File,
    ) -> Result<Database, StoreError> {
        let mut lru = LruCacheOptions::default();
        lru.set_capacity(options.block_cache_bytes);
        lru.set_num_shard_bits(CACHE_SHARD_BITS);
        let cache = Cache::new_lru_cache_opts(&lru);
        let families = Family::ALL.map(|family| {
            ColumnFamilyDescriptor::new(family.name(), family_options(family, options, &cache))
        });
        let how = database_options(options, place == Place::New);
        let db = match place {
            Place::New | Place::Sound => DB::open_cf_descriptors(&how, dir, families),
            Place::Damaged => DB::open_cf_descriptors_read_only(&how, dir, families, false),
        };
        let db = db.map_err(|error| match error.kind() {
            rocksdb::ErrorKind::Corruption
            | rocksdb::ErrorKind::InvalidArgument
            | rocksdb::ErrorKind::NotFound => StoreError::damaged("the database", error),
            // A file that its list of files names is gone: RocksDB reports the failed open.
            rocksdb::ErrorKind::IOError if error.to_string().contains("No such file") => {
                StoreError::damaged("the database", error)
            }
            _ => StoreError::Database { doing: "be opened", source: error },
        })?;

        let (recovered, wanted) = (db.latest_sequence_number(), synced.sequence());
        if recovered < wanted {
            return Err(StoreError::damaged(
                "the database's write-ahead log",
                format!("it was durable up to write {wanted}, but reads only up to {recovered}"),
            ));
        }
        Ok(Database {
            db,
            gate: SyncGate::default(),
            synced,
            poison: OnceLock::new(),
            damage: OnceLock::new(),
            volumes: RwLock::default(),
            _lock: lock,
        })
    }

    /// What was found damaged while it was read, if anything was.
    pub fn damage(&self) -> Option<&str> {
        self.damage.get().map(String::as_str)
    }

    /// Remembers that something read is not what was written.
    pub fn noticed<T>(&self, result: Result<T, StoreError>) -> Result<T, StoreError> {
        if let Err(error @ StoreError::Damaged { .. }) = &result {
            // A second one adds nothing to the first.
            if self.damage.set(error.chain()).is_ok() {
                tracing::error!(%error, "the database is damaged");
            }
        }
        result
    }

    pub fn raw(&self) -> &DB {
        &self.db
    }

    pub fn family(&self, family: Family) -> &ColumnFamily {
        self.db.cf_handle(family.name()).expect("open creates every family")
    }

    /// Why the store stopped, if it did.
    pub fn poisoned(&self) -> Option<&str> {
        self.poison.get().map(String::as_str)
    }

    /// Stops the store: after a failed write or fsync nobody knows what the disk holds (the
    /// kernel drops pages that it could not write), so nothing here is believed any more.
    pub fn poison(&self, error: StoreError) -> StoreError {
        let reason = error.chain();
        tracing::error!(%reason, "the store stops");
        // A second failure adds nothing to the first.
        let _ = self.poison.set(reason);
        error
    }

    pub fn check(&self) -> Result<(), StoreError> {
        match self.poison.get() {
            Some(reason) => Err(StoreError::Poisoned { reason: reason.clone() }),
            None => Ok(()),
        }
    }

    /// Writes a batch: all or nothing after a crash, but not durable before [`Self::sync`].
    /// The bytes are with the kernel when this returns, so they survive the death of the
    /// process.
    pub fn write(&self, batch: WriteBatch) -> Result<(), StoreError> {
        self.check()?;
        let mut how = WriteOptions::default();
        how.set_sync(false);
        self.db
            .write_opt(batch, &how)
            .map_err(|source| self.poison(StoreError::Database { doing: "write", source }))
    }

    /// Makes everything written before the call durable.
    pub fn sync(&self) -> Result<(), StoreError> {
        self.gate.pass(|| {
            self.check()?;
            // Read before the sync: what is written meanwhile may be covered or not.
            let sequence = self.db.latest_sequence_number();
            self.db.flush_wal(true).map_err(|source| {
                self.poison(StoreError::Database { doing: "sync its log", source })
            })?;
            self.synced.advance(sequence).map_err(|error| self.poison(error))
        })
    }

    pub fn get(&self, family: Family, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.check()?;
        let value = self.db.get_cf(self.family(family), key);
        self.noticed(value.map_err(|source| StoreError::reading("read", source)))
    }

    /// Visits the keys that start with `prefix`, ascending from `from` on, until `visit`
    /// returns false or fails.
    pub fn scan(
        &self,
        family: Family,
        prefix: &[u8],
        from: &[u8],
        visit: &mut Visit<'_>,
    ) -> Result<(), StoreError> {
        self.check()?;
        let options = scan_options(family, prefix, ReadOptions::default());
        let rows = self.db.raw_iterator_cf_opt(self.family(family), options);
        self.noticed(visit_rows(rows, prefix, from, visit))
    }

    /// The last key that starts with `prefix`.
    pub fn last_key(&self, family: Family, prefix: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.check()?;
        let mut options = scan_options(family, prefix, ReadOptions::default());
        options.set_total_order_seek(true);
        let mut rows = self.db.raw_iterator_cf_opt(self.family(family), options);
        rows.seek_to_last();
        let key = rows.key().filter(|key| key.starts_with(prefix)).map(<[u8]>::to_vec);
        rows.status().map_err(|source| StoreError::reading("read", source))?;
        Ok(key)
    }

    /// Deletes every key that starts with `prefix`, as part of `batch`.
    pub fn delete_prefix(&self, batch: &mut WriteBatch, family: Family, prefix: &[u8]) {
        let end = schema::successor(prefix).expect("no prefix of ours is all 0xff");
        batch.delete_range_cf(self.family(family), prefix, &end);
    }

    /// Gives the space of deleted keys back to the file system. They must be deleted durably:
    /// whole files go at once, which no log undoes. Takes as long as rewriting the few files
    /// that hold other keys too.
    pub fn reclaim(&self, family: Family, first: &[u8], last: &[u8]) -> Result<(), StoreError> {
        self.check()?;
        let family = self.family(family);
        self.db
            .delete_file_in_range_cf(family, first, last)
            .map_err(|source| StoreError::Database { doing: "give space back", source })?;
        self.db.compact_range_cf(family, Some(first), Some(last));
        Ok(())
    }

    /// Rewrites the files that hold keys that start with `prefix`, without what was deleted.
    pub fn compact(&self, family: Family, prefix: &[u8]) {
        let end = schema::successor(prefix).expect("no prefix of ours is all 0xff");
        self.db.compact_range_cf(self.family(family), Some(prefix), Some(end.as_slice()));
    }

    /// About how many bytes on disk the keys that start with `prefix` have.
    pub fn approximate_bytes(&self, family: Family, prefix: &[u8]) -> u64 {
        let end = schema::successor(prefix).expect("no prefix of ours is all 0xff");
        let range = rocksdb::Range::new(prefix, &end);
        self.db
            .get_approximate_sizes_cf(self.family(family), &[range])
            .first()
            .copied()
            .unwrap_or(0)
    }

    /// A consistent copy by hard links.
    pub fn checkpoint(&self, path: &Path) -> Result<(), StoreError> {
        self.check()?;
        let make = || rocksdb::checkpoint::Checkpoint::new(&self.db)?.create_checkpoint(path);
        make().map_err(|source| StoreError::Database { doing: "make a checkpoint", source })
    }
}

/// Read options for keys that start with `prefix`.
pub fn scan_options(family: Family, prefix: &[u8], mut options: ReadOptions) -> ReadOptions {
    if let Some(end) = schema::successor(prefix) {
        options.set_iterate_upper_bound(end);
    }
    // RocksDB's filter on prefixes is right only for a seek within one such prefix.
    let within_one = family == Family::Tables && prefix.len() >= TABLES_FILTER_PREFIX_BYTES;
    options.set_total_order_seek(!within_one);
    options.set_prefix_same_as_start(within_one);
    options
}

/// Walks an iterator that was made with [`scan_options`] for the same prefix.
pub fn visit_rows(
    mut rows: DBRawIterator<'_>,
    prefix: &[u8],
    from: &[u8],
    visit: &mut Visit<'_>,
) -> Result<(), StoreError> {
    rows.seek(if from > prefix { from } else { prefix });
    while let Some((key, value)) = rows.item() {
        if !key.starts_with(prefix) || !visit(key, value)? {
            return Ok(());
        }
        rows.next();
    }
    rows.status().map_err(|source| StoreError::reading("read", source))
}

fn database_options(options: &Options, new: bool) -> rocksdb::Options {
    let mut db = rocksdb::Options::default();
    db.create_if_missing(new);
    db.create_missing_column_families(new);
    db.set_paranoid_checks(true);
    // Not TolerateCorruptedTailRecords: the kernel may write the pages of an unsynced tail in
    // any order, so power loss can leave a hole with whole records behind it, which that mode
    // refuses to open. Damage before the synced point is found by `SyncedMark`.
    db.set_wal_recovery_mode(DBRecoveryMode::PointInTime);
    // A log file that was synced and is now missing or short is an error.
    db.set_track_and_verify_wals_in_manifest(true);
    // Each write goes to the kernel at once: what was applied survives kill -9.
    db.set_manual_wal_flush(false);
    db.set_max_total_wal_size(WAL_BYTES_MAX);
    db.set_db_write_buffer_size(options.write_buffer_bytes);
    db.set_max_background_jobs(2);
    db.set_max_open_files(512);
    // Writes a flush or compaction out steadily, so that it does not delay the log's fsync.
    db.set_bytes_per_sync(1 << 20);
    db.set_log_level(rocksdb::LogLevel::Warn);
    db.set_max_log_file_size(8 << 20);
    db.set_keep_log_file_num(4);
    db
}

/// Four shards. A filter of a million keys has more than a megabyte: with RocksDB's default of 64
/// it fits into none of them, and each read fetches it again.
const CACHE_SHARD_BITS: i32 = 2;

fn family_options(family: Family, options: &Options, cache: &Cache) -> rocksdb::Options {
    let mut blocks = BlockBasedOptions::default();
    blocks.set_block_cache(cache);
    blocks.set_bloom_filter(FILTER_BITS_PER_KEY, false);
    blocks.set_cache_index_and_filter_blocks(true);
    blocks.set_pin_l0_filter_and_index_blocks_in_cache(true);

    let mut cf = rocksdb::Options::default();
    cf.set_compression_type(rocksdb::DBCompressionType::Lz4);
    cf.set_write_buffer_size(options.write_buffer_bytes / 4);
    cf.set_max_write_buffer_number(3);
    if family == Family::Tables {
        cf.set_prefix_extractor(SliceTransform::create_fixed_prefix(TABLES_FILTER_PREFIX_BYTES));
        // Lookups of names and inodes mostly have no scan to help: keep whole keys too.
        blocks.set_whole_key_filtering(true);
        cf.set_memtable_prefix_bloom_ratio(0.05);
        cf.set_memtable_whole_key_filtering(true);
    }
    cf.set_block_based_table_factory(&blocks);
    cf
}
