//! The eight TPC-H tables: how they are declared, and their rows from the generator into SQLite.
//!
//! Must not know where the database is or who writes it.

use std::fmt::{Display, Write as _};

use indicatif::ProgressBar;
use rusqlite::{Connection, Statement, ToSql};
use tpchgen::decimal::TPCHDecimal;
use tpchgen::distribution::Distributions;
use tpchgen::generators::{
    CustomerGenerator, LineItemGenerator, NationGenerator, OrderGenerator, PartGenerator, PartSuppGenerator,
    RegionGenerator, SupplierGenerator,
};
use tpchgen::text::TextPool;

/// Rows between two updates of the progress line.
const ROWS_PER_UPDATE: u64 = 1024;

/// Text that comments are pieces of. TPC-H's own generator takes 300 MiB of it, which small machines do not have; of the grammar and the
/// lengths of comments, this is as good.
const TEXT_POOL_BYTES: i32 = 16 * 1024 * 1024;

/// Rows of `lineitem` at scale 1; how many there are at other scales is known only at the end.
const LINEITEMS_AT_SCALE_1: f64 = 6_001_215.0;

/// The formula that gives a part its four suppliers repeats itself where there are fewer than some 250 suppliers to choose
/// from: from this scale on (300 suppliers), a part and a supplier meet once.
const SCALE_OF_UNIQUE_PARTSUPP: f64 = 0.03;

/// Every table has a rowid, so that a scan's progress can be told. Amounts of money have two decimals; as doubles they are
/// the nearest ones.
const TABLES: &str = "
CREATE TABLE region (
    r_regionkey INTEGER PRIMARY KEY, r_name TEXT NOT NULL, r_comment TEXT NOT NULL
);
CREATE TABLE nation (
    n_nationkey INTEGER PRIMARY KEY, n_name TEXT NOT NULL, n_regionkey INTEGER NOT NULL REFERENCES region,
    n_comment TEXT NOT NULL
);
CREATE TABLE supplier (
    s_suppkey INTEGER PRIMARY KEY, s_name TEXT NOT NULL, s_address TEXT NOT NULL,
    s_nationkey INTEGER NOT NULL REFERENCES nation, s_phone TEXT NOT NULL, s_acctbal REAL NOT NULL,
    s_comment TEXT NOT NULL
);
CREATE TABLE customer (
    c_custkey INTEGER PRIMARY KEY, c_name TEXT NOT NULL, c_address TEXT NOT NULL,
    c_nationkey INTEGER NOT NULL REFERENCES nation, c_phone TEXT NOT NULL, c_acctbal REAL NOT NULL,
    c_mktsegment TEXT NOT NULL, c_comment TEXT NOT NULL
);
CREATE TABLE part (
    p_partkey INTEGER PRIMARY KEY, p_name TEXT NOT NULL, p_mfgr TEXT NOT NULL, p_brand TEXT NOT NULL,
    p_type TEXT NOT NULL, p_size INTEGER NOT NULL, p_container TEXT NOT NULL, p_retailprice REAL NOT NULL,
    p_comment TEXT NOT NULL
);
CREATE TABLE partsupp (
    ps_partkey INTEGER NOT NULL REFERENCES part, ps_suppkey INTEGER NOT NULL REFERENCES supplier,
    ps_availqty INTEGER NOT NULL, ps_supplycost REAL NOT NULL, ps_comment TEXT NOT NULL
);
CREATE TABLE orders (
    o_orderkey INTEGER PRIMARY KEY, o_custkey INTEGER NOT NULL REFERENCES customer, o_orderstatus TEXT NOT NULL,
    o_totalprice REAL NOT NULL, o_orderdate DATE NOT NULL, o_orderpriority TEXT NOT NULL, o_clerk TEXT NOT NULL,
    o_shippriority INTEGER NOT NULL, o_comment TEXT NOT NULL
);
CREATE TABLE lineitem (
    l_orderkey INTEGER NOT NULL REFERENCES orders, l_partkey INTEGER NOT NULL REFERENCES part,
    l_suppkey INTEGER NOT NULL REFERENCES supplier,
    l_linenumber INTEGER NOT NULL, l_quantity INTEGER NOT NULL, l_extendedprice REAL NOT NULL,
    l_discount REAL NOT NULL, l_tax REAL NOT NULL, l_returnflag TEXT NOT NULL, l_linestatus TEXT NOT NULL,
    l_shipdate DATE NOT NULL, l_commitdate DATE NOT NULL, l_receiptdate DATE NOT NULL,
    l_shipinstruct TEXT NOT NULL, l_shipmode TEXT NOT NULL, l_comment TEXT NOT NULL,
    PRIMARY KEY (l_orderkey, l_linenumber)
);";

/// Made when the rows are in: sorted once, an index is written several times as fast.
const INDEXES: &str = "
CREATE INDEX nation_regionkey ON nation (n_regionkey);
CREATE INDEX supplier_nationkey ON supplier (s_nationkey);
CREATE INDEX customer_nationkey ON customer (c_nationkey);
CREATE INDEX partsupp_suppkey ON partsupp (ps_suppkey);
CREATE INDEX orders_custkey ON orders (o_custkey);
CREATE INDEX lineitem_partkey_suppkey ON lineitem (l_partkey, l_suppkey);";

/// Declares all tables and writes their rows and indexes.
pub(super) fn write(db: &Connection, scale: f64, bar: &ProgressBar) -> rusqlite::Result<()> {
    bar.set_length(rows_expected(scale));
    db.execute_batch(TABLES)?;
    let words = Distributions::static_default();
    let texts = &TextPool::new(TEXT_POOL_BYTES, words);

    fill(
        db,
        bar,
        "region",
        3,
        RegionGenerator::new_with_distributions_and_text_pool(words, texts).iter(),
        |out, r| out.int(r.r_regionkey)?.text(r.r_name)?.text(r.r_comment)?.done(),
    )?;
    fill(
        db,
        bar,
        "nation",
        4,
        NationGenerator::new_with_distributions_and_text_pool(words, texts).iter(),
        |out, n| {
            out.int(n.n_nationkey)?.text(n.n_name)?.int(n.n_regionkey)?;
            out.text(n.n_comment)?.done()
        },
    )?;
    fill(
        db,
        bar,
        "supplier",
        7,
        SupplierGenerator::new_with_distributions_and_text_pool(scale, 1, 1, words, texts).iter(),
        |out, s| {
            out.int(s.s_suppkey)?.show(&s.s_name)?.show(&s.s_address)?;
            out.int(s.s_nationkey)?.show(&s.s_phone)?.money(s.s_acctbal)?;
            out.text(&s.s_comment)?.done()
        },
    )?;
    fill(
        db,
        bar,
        "customer",
        8,
        CustomerGenerator::new_with_distributions_and_text_pool(scale, 1, 1, words, texts).iter(),
        |out, c| {
            out.int(c.c_custkey)?.show(&c.c_name)?.show(&c.c_address)?;
            out.int(c.c_nationkey)?.show(&c.c_phone)?.money(c.c_acctbal)?;
            out.text(c.c_mktsegment)?.text(c.c_comment)?.done()
        },
    )?;
    fill(
        db,
        bar,
        "part",
        9,
        PartGenerator::new_with_distributions_and_text_pool(scale, 1, 1, words, texts).iter(),
        |out, p| {
            out.int(p.p_partkey)?
                .show(&p.p_name)?
                .show(&p.p_mfgr)?
                .show(&p.p_brand)?;
            out.text(p.p_type)?.int(p.p_size)?.text(p.p_container)?;
            out.money(p.p_retailprice)?.text(p.p_comment)?.done()
        },
    )?;
    fill(
        db,
        bar,
        "partsupp",
        5,
        PartSuppGenerator::new_with_text_pool(scale, 1, 1, texts).iter(),
        |out, ps| {
            out.int(ps.ps_partkey)?.int(ps.ps_suppkey)?.int(ps.ps_availqty)?;
            out.money(ps.ps_supplycost)?.text(ps.ps_comment)?.done()
        },
    )?;
    fill(
        db,
        bar,
        "orders",
        9,
        OrderGenerator::new_with_distributions_and_text_pool(scale, 1, 1, words, texts).iter(),
        |out, o| {
            out.int(o.o_orderkey)?.int(o.o_custkey)?.show(&o.o_orderstatus)?;
            out.money(o.o_totalprice)?
                .show(&o.o_orderdate)?
                .text(o.o_orderpriority)?;
            out.show(&o.o_clerk)?.int(o.o_shippriority)?.text(o.o_comment)?.done()
        },
    )?;
    fill(
        db,
        bar,
        "lineitem",
        16,
        LineItemGenerator::new_with_distributions_and_text_pool(scale, 1, 1, words, texts).iter(),
        |out, l| {
            out.int(l.l_orderkey)?.int(l.l_partkey)?.int(l.l_suppkey)?;
            out.int(l.l_linenumber)?.int(l.l_quantity)?.money(l.l_extendedprice)?;
            out.money(l.l_discount)?.money(l.l_tax)?;
            out.text(l.l_returnflag)?.text(l.l_linestatus)?;
            out.show(&l.l_shipdate)?.show(&l.l_commitdate)?.show(&l.l_receiptdate)?;
            out.text(l.l_shipinstruct)?
                .text(l.l_shipmode)?
                .text(l.l_comment)?
                .done()
        },
    )?;

    bar.set_message("indexes");
    let unique = if scale >= SCALE_OF_UNIQUE_PARTSUPP {
        "UNIQUE"
    } else {
        ""
    };
    db.execute_batch(&format!(
        "CREATE {unique} INDEX partsupp_key ON partsupp (ps_partkey, ps_suppkey);"
    ))?;
    db.execute_batch(INDEXES)
}

/// About how many rows all tables have together.
fn rows_expected(scale: f64) -> u64 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "an estimate for a progress line, and scales are positive"
    )]
    let lineitems = (LINEITEMS_AT_SCALE_1 * scale) as u64;
    let others = [
        SupplierGenerator::calculate_row_count(scale, 1, 1),
        CustomerGenerator::calculate_row_count(scale, 1, 1),
        PartGenerator::calculate_row_count(scale, 1, 1),
        // Counts parts; each has four suppliers.
        4 * PartSuppGenerator::calculate_row_count(scale, 1, 1),
        OrderGenerator::calculate_row_count(scale, 1, 1),
    ];
    lineitems + others.into_iter().sum::<i64>().unsigned_abs()
}

/// Inserts `rows` into `table`, which has `n_columns` columns; `bind` puts one row's cells into the statement.
fn fill<R>(
    db: &Connection,
    bar: &ProgressBar,
    table: &'static str,
    n_columns: usize,
    rows: impl Iterator<Item = R>,
    bind: impl Fn(&mut Cells<'_>, R) -> rusqlite::Result<()>,
) -> rusqlite::Result<()> {
    bar.set_message(table);
    let places = vec!["?"; n_columns].join(",");
    let mut cells = Cells {
        insert: db.prepare(&format!("INSERT INTO {table} VALUES ({places})"))?,
        next: 1,
        scratch: String::new(),
    };
    let mut n_rows = 0;
    for row in rows {
        bind(&mut cells, row)?;
        n_rows += 1;
        if n_rows % ROWS_PER_UPDATE == 0 {
            bar.inc(ROWS_PER_UPDATE);
        }
    }
    bar.inc(n_rows % ROWS_PER_UPDATE);
    Ok(())
}

/// Binds the cells of one row after the other.
struct Cells<'db> {
    insert: Statement<'db>,
    /// 1-based place of the next cell.
    next: usize,
    /// For values that can only be shown.
    scratch: String,
}

impl Cells<'_> {
    fn int(&mut self, value: impl Into<i64>) -> rusqlite::Result<&mut Self> {
        self.put(value.into())
    }

    fn money(&mut self, value: TPCHDecimal) -> rusqlite::Result<&mut Self> {
        self.put(value.as_f64())
    }

    fn text(&mut self, value: &str) -> rusqlite::Result<&mut Self> {
        self.put(value)
    }

    fn show(&mut self, value: &dyn Display) -> rusqlite::Result<&mut Self> {
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.clear();
        write!(scratch, "{value}").expect("a String takes every text");
        self.put(scratch.as_str())?;
        self.scratch = scratch;
        Ok(self)
    }

    fn put(&mut self, value: impl ToSql) -> rusqlite::Result<&mut Self> {
        self.insert.raw_bind_parameter(self.next, value)?;
        self.next += 1;
        Ok(self)
    }

    /// Inserts the row.
    fn done(&mut self) -> rusqlite::Result<()> {
        self.next = 1;
        self.insert.raw_execute().map(|_| ())
    }
}
