//! What people ask of the demo data: the queries of TPC-H and a few reports, which the profile for strangers must not stand in the way of.
#![allow(clippy::unwrap_used)] // a failed unwrap is the failed assertion here

use indicatif::ProgressBar;

use super::{CACHE_KIB_MAX, Prepared, Scale, prepare_in};
use crate::engine::sqlite::{SqliteEngine, SqliteProfile};
use crate::engine::{CancelToken, Engine, QuerySpec, Step};
use crate::rows::{BatchLimits, Int64Encoding, RowFormat, RowShape, RowWriter};

/// The 22 queries of TPC-H in SQLite's dialect, in their order; what they ask for is chosen so that the smallest scale has it.
const QUERIES: [&str; 22] = [
    "SELECT l_returnflag, l_linestatus, sum(l_quantity), sum(l_extendedprice) AS sum_base_price,
        sum(l_extendedprice * (1 - l_discount)), sum(l_extendedprice * (1 - l_discount) * (1 + l_tax)),
        avg(l_quantity), avg(l_extendedprice), avg(l_discount), count(*) AS count_order
     FROM lineitem WHERE l_shipdate <= date('1998-12-01', '-90 days')
     GROUP BY l_returnflag, l_linestatus ORDER BY l_returnflag, l_linestatus",
    "SELECT s_acctbal, s_name, n_name, p_partkey, p_mfgr, s_address, s_phone, s_comment
     FROM part, supplier, partsupp, nation, region
     WHERE p_partkey = ps_partkey AND s_suppkey = ps_suppkey AND p_size > 15 AND p_type LIKE '%BRASS'
        AND s_nationkey = n_nationkey AND n_regionkey = r_regionkey AND r_name = 'AMERICA'
        AND ps_supplycost = (SELECT min(ps_supplycost) FROM partsupp, supplier, nation, region
            WHERE p_partkey = ps_partkey AND s_suppkey = ps_suppkey AND s_nationkey = n_nationkey
                AND n_regionkey = r_regionkey AND r_name = 'AMERICA')
     ORDER BY s_acctbal DESC, n_name, s_name, p_partkey LIMIT 100",
    "SELECT l_orderkey, sum(l_extendedprice * (1 - l_discount)) AS revenue, o_orderdate, o_shippriority
     FROM customer, orders, lineitem
     WHERE c_mktsegment = 'BUILDING' AND c_custkey = o_custkey AND l_orderkey = o_orderkey
        AND o_orderdate < date('1995-03-15') AND l_shipdate > date('1995-03-15')
     GROUP BY l_orderkey, o_orderdate, o_shippriority ORDER BY revenue DESC, o_orderdate LIMIT 10",
    "SELECT o_orderpriority, count(*) AS order_count FROM orders
     WHERE o_orderdate >= date('1993-07-01') AND o_orderdate < date('1993-07-01', '+3 months')
        AND EXISTS (SELECT * FROM lineitem WHERE l_orderkey = o_orderkey AND l_commitdate < l_receiptdate)
     GROUP BY o_orderpriority ORDER BY o_orderpriority",
    "SELECT n_name, sum(l_extendedprice * (1 - l_discount)) AS revenue
     FROM customer, orders, lineitem, supplier, nation, region
     WHERE c_custkey = o_custkey AND l_orderkey = o_orderkey AND l_suppkey = s_suppkey AND c_nationkey = s_nationkey
        AND s_nationkey = n_nationkey AND n_regionkey = r_regionkey AND r_name = 'AMERICA'
        AND o_orderdate >= date('1994-01-01') AND o_orderdate < date('1994-01-01', '+1 year')
     GROUP BY n_name ORDER BY revenue DESC",
    "SELECT sum(l_extendedprice * l_discount) AS revenue FROM lineitem
     WHERE l_shipdate >= date('1994-01-01') AND l_shipdate < date('1994-01-01', '+1 year')
        AND l_discount BETWEEN 0.06 - 0.01 AND 0.06 + 0.01 AND l_quantity < 24",
    "SELECT supp_nation, cust_nation, l_year, sum(volume) AS revenue FROM (
        SELECT n1.n_name AS supp_nation, n2.n_name AS cust_nation, strftime('%Y', l_shipdate) AS l_year,
            l_extendedprice * (1 - l_discount) AS volume
        FROM supplier, lineitem, orders, customer, nation n1, nation n2
        WHERE s_suppkey = l_suppkey AND o_orderkey = l_orderkey AND c_custkey = o_custkey
            AND s_nationkey = n1.n_nationkey AND c_nationkey = n2.n_nationkey
            AND (n1.n_name = 'PERU' OR n2.n_name = 'PERU')
            AND l_shipdate BETWEEN date('1995-01-01') AND date('1996-12-31')) AS shipping
     GROUP BY supp_nation, cust_nation, l_year ORDER BY supp_nation, cust_nation, l_year",
    "SELECT o_year, sum(CASE WHEN nation = 'PERU' THEN volume ELSE 0 END) / sum(volume) AS mkt_share FROM (
        SELECT strftime('%Y', o_orderdate) AS o_year, l_extendedprice * (1 - l_discount) AS volume, n2.n_name AS nation
        FROM part, supplier, lineitem, orders, customer, nation n1, nation n2, region
        WHERE p_partkey = l_partkey AND s_suppkey = l_suppkey AND l_orderkey = o_orderkey AND o_custkey = c_custkey
            AND c_nationkey = n1.n_nationkey AND n1.n_regionkey = r_regionkey AND r_name = 'AMERICA'
            AND s_nationkey = n2.n_nationkey AND o_orderdate BETWEEN date('1995-01-01') AND date('1996-12-31')
            AND p_type LIKE 'ECONOMY%') AS all_nations
     GROUP BY o_year ORDER BY o_year",
    "SELECT nation, o_year, sum(amount) AS sum_profit FROM (
        SELECT n_name AS nation, strftime('%Y', o_orderdate) AS o_year,
            l_extendedprice * (1 - l_discount) - ps_supplycost * l_quantity AS amount
        FROM part, supplier, lineitem, partsupp, orders, nation
        WHERE s_suppkey = l_suppkey AND ps_suppkey = l_suppkey AND ps_partkey = l_partkey AND p_partkey = l_partkey
            AND o_orderkey = l_orderkey AND s_nationkey = n_nationkey AND p_name LIKE '%green%') AS profit
     GROUP BY nation, o_year ORDER BY nation, o_year DESC",
    "SELECT c_custkey, c_name, sum(l_extendedprice * (1 - l_discount)) AS revenue, c_acctbal, n_name, c_address, c_phone, c_comment
     FROM customer, orders, lineitem, nation
     WHERE c_custkey = o_custkey AND l_orderkey = o_orderkey AND o_orderdate >= date('1993-10-01')
        AND o_orderdate < date('1993-10-01', '+3 months') AND l_returnflag = 'R' AND c_nationkey = n_nationkey
     GROUP BY c_custkey, c_name, c_acctbal, c_phone, n_name, c_address, c_comment ORDER BY revenue DESC LIMIT 20",
    "SELECT ps_partkey, sum(ps_supplycost * ps_availqty) AS value FROM partsupp, supplier, nation
     WHERE ps_suppkey = s_suppkey AND s_nationkey = n_nationkey AND n_name = 'PERU'
     GROUP BY ps_partkey
     HAVING sum(ps_supplycost * ps_availqty) > (SELECT sum(ps_supplycost * ps_availqty) * 0.0001
        FROM partsupp, supplier, nation WHERE ps_suppkey = s_suppkey AND s_nationkey = n_nationkey AND n_name = 'PERU')
     ORDER BY value DESC",
    "SELECT l_shipmode,
        sum(CASE WHEN o_orderpriority = '1-URGENT' OR o_orderpriority = '2-HIGH' THEN 1 ELSE 0 END) AS high_line_count,
        sum(CASE WHEN o_orderpriority <> '1-URGENT' AND o_orderpriority <> '2-HIGH' THEN 1 ELSE 0 END) AS low_line_count
     FROM orders, lineitem
     WHERE o_orderkey = l_orderkey AND l_shipmode IN ('MAIL', 'SHIP') AND l_commitdate < l_receiptdate
        AND l_shipdate < l_commitdate AND l_receiptdate >= date('1994-01-01')
        AND l_receiptdate < date('1994-01-01', '+1 year')
     GROUP BY l_shipmode ORDER BY l_shipmode",
    "SELECT c_count, count(*) AS custdist FROM (
        SELECT c_custkey, count(o_orderkey) AS c_count FROM customer
        LEFT OUTER JOIN orders ON c_custkey = o_custkey AND o_comment NOT LIKE '%special%requests%'
        GROUP BY c_custkey) AS c_orders
     GROUP BY c_count ORDER BY custdist DESC, c_count DESC",
    "SELECT 100.00 * sum(CASE WHEN p_type LIKE 'PROMO%' THEN l_extendedprice * (1 - l_discount) ELSE 0 END)
        / sum(l_extendedprice * (1 - l_discount)) AS promo_revenue
     FROM lineitem, part
     WHERE l_partkey = p_partkey AND l_shipdate >= date('1995-09-01') AND l_shipdate < date('1995-09-01', '+1 month')",
    "WITH revenue(supplier_no, total_revenue) AS (
        SELECT l_suppkey, sum(l_extendedprice * (1 - l_discount)) FROM lineitem
        WHERE l_shipdate >= date('1996-01-01') AND l_shipdate < date('1996-01-01', '+3 months') GROUP BY l_suppkey)
     SELECT s_suppkey, s_name, s_address, s_phone, total_revenue FROM supplier, revenue
     WHERE s_suppkey = supplier_no AND total_revenue = (SELECT max(total_revenue) FROM revenue) ORDER BY s_suppkey",
    "SELECT p_brand, p_type, p_size, count(DISTINCT ps_suppkey) AS supplier_cnt FROM partsupp, part
     WHERE p_partkey = ps_partkey AND p_brand <> 'Brand#45' AND p_type NOT LIKE 'MEDIUM POLISHED%'
        AND p_size IN (49, 14, 23, 45, 19, 3, 36, 9)
        AND ps_suppkey NOT IN (SELECT s_suppkey FROM supplier WHERE s_comment LIKE '%Customer%Complaints%')
     GROUP BY p_brand, p_type, p_size ORDER BY supplier_cnt DESC, p_brand, p_type, p_size",
    "SELECT sum(l_extendedprice) / 7.0 AS avg_yearly FROM lineitem, part
     WHERE p_partkey = l_partkey AND p_brand LIKE 'Brand#2%' AND p_container LIKE 'MED%'
        AND l_quantity < (SELECT 0.2 * avg(l_quantity) FROM lineitem WHERE l_partkey = p_partkey)",
    "SELECT c_name, c_custkey, o_orderkey, o_orderdate, o_totalprice, sum(l_quantity) FROM customer, orders, lineitem
     WHERE o_orderkey IN (SELECT l_orderkey FROM lineitem GROUP BY l_orderkey HAVING sum(l_quantity) > 250)
        AND c_custkey = o_custkey AND o_orderkey = l_orderkey
     GROUP BY c_name, c_custkey, o_orderkey, o_orderdate, o_totalprice ORDER BY o_totalprice DESC, o_orderdate LIMIT 100",
    "SELECT sum(l_extendedprice * (1 - l_discount)) AS revenue FROM lineitem, part
     WHERE p_partkey = l_partkey AND l_shipmode IN ('AIR', 'REG AIR') AND l_shipinstruct = 'DELIVER IN PERSON'
        AND ((p_brand LIKE 'Brand#1%' AND p_container IN ('SM CASE', 'SM BOX', 'SM PACK', 'SM PKG')
                AND l_quantity >= 1 AND l_quantity <= 1 + 10 AND p_size BETWEEN 1 AND 5)
            OR (p_brand LIKE 'Brand#2%' AND p_container IN ('MED BAG', 'MED BOX', 'MED PKG', 'MED PACK')
                AND l_quantity >= 10 AND l_quantity <= 10 + 10 AND p_size BETWEEN 1 AND 10)
            OR (p_brand LIKE 'Brand#3%' AND p_container IN ('LG CASE', 'LG BOX', 'LG PACK', 'LG PKG')
                AND l_quantity >= 20 AND l_quantity <= 20 + 10 AND p_size BETWEEN 1 AND 15))",
    "SELECT s_name, s_address FROM supplier, nation
     WHERE s_suppkey IN (SELECT ps_suppkey FROM partsupp
            WHERE ps_partkey IN (SELECT p_partkey FROM part WHERE p_name LIKE '%green%')
                AND ps_availqty > (SELECT 0.5 * sum(l_quantity) FROM lineitem
                    WHERE l_partkey = ps_partkey AND l_suppkey = ps_suppkey
                        AND l_shipdate >= date('1994-01-01') AND l_shipdate < date('1994-01-01', '+1 year')))
        AND s_nationkey = n_nationkey AND n_name IN ('PERU', 'IRAQ', 'KENYA', 'ETHIOPIA')
     ORDER BY s_name",
    "SELECT s_name, count(*) AS numwait FROM supplier, lineitem l1, orders, nation
     WHERE s_suppkey = l1.l_suppkey AND o_orderkey = l1.l_orderkey AND o_orderstatus = 'F'
        AND l1.l_receiptdate > l1.l_commitdate
        AND EXISTS (SELECT * FROM lineitem l2 WHERE l2.l_orderkey = l1.l_orderkey AND l2.l_suppkey <> l1.l_suppkey)
        AND NOT EXISTS (SELECT * FROM lineitem l3 WHERE l3.l_orderkey = l1.l_orderkey
            AND l3.l_suppkey <> l1.l_suppkey AND l3.l_receiptdate > l3.l_commitdate)
        AND s_nationkey = n_nationkey
     GROUP BY s_name ORDER BY numwait DESC, s_name LIMIT 100",
    "SELECT cntrycode, count(*) AS numcust, sum(c_acctbal) AS totacctbal FROM (
        SELECT substr(c_phone, 1, 2) AS cntrycode, c_acctbal FROM customer
        WHERE substr(c_phone, 1, 2) IN ('13', '31', '23', '29', '30', '18', '17')
            AND c_acctbal > (SELECT avg(c_acctbal) FROM customer
                WHERE c_acctbal > 0.00 AND substr(c_phone, 1, 2) IN ('13', '31', '23', '29', '30', '18', '17'))
            AND NOT EXISTS (SELECT * FROM orders WHERE o_custkey = c_custkey)) AS custsale
     GROUP BY cntrycode ORDER BY cntrycode",
];

/// What reports are made of and TPC-H does not ask for.
const REPORTS: &[&str] = &[
    "WITH monthly AS (SELECT strftime('%Y-%m', o_orderdate) AS month, sum(o_totalprice) AS total FROM orders GROUP BY 1)
     SELECT month, total, sum(total) OVER (ORDER BY month), total - lag(total) OVER (ORDER BY month),
        avg(total) OVER (ORDER BY month ROWS BETWEEN 2 PRECEDING AND CURRENT ROW), rank() OVER (ORDER BY total DESC)
     FROM monthly ORDER BY month",
    "WITH RECURSIVE months(day) AS (SELECT date('1996-01-01') UNION ALL SELECT date(day, '+1 month') FROM months LIMIT 12)
     SELECT day, strftime('%j %W', day), (SELECT count(*) FROM orders
        WHERE o_orderdate >= day AND o_orderdate < date(day, 'start of month', '+1 month')) FROM months",
    "SELECT c_mktsegment, count(*) FILTER (WHERE c_acctbal < 0), round(avg(c_acctbal), 2), group_concat(c_custkey, ' '),
        json_group_array(json_object('name', c_name, 'balance', c_acctbal))
     FROM customer GROUP BY c_mktsegment HAVING count(*) > 3 ORDER BY lower(c_mktsegment)",
    "SELECT l_shipmode, julianday(l_receiptdate) - julianday(l_shipdate) AS days, ntile(4) OVER (PARTITION BY l_shipmode ORDER BY l_receiptdate, rowid),
        first_value(l_orderkey) OVER w, row_number() OVER w
     FROM lineitem WINDOW w AS (PARTITION BY l_shipmode ORDER BY l_extendedprice DESC, rowid) ORDER BY l_shipmode, rowid",
    "SELECT upper(trim(substr(p_name, 1, 12))) || ': ' || printf('%08.2f', p_retailprice), replace(p_container, ' ', '-'), instr(p_comment, 'a'),
        CASE p_size % 3 WHEN 0 THEN 'small' WHEN 1 THEN 'medium' ELSE 'large' END, coalesce(nullif(p_size, 1), 'one'), abs(-p_size)
     FROM part WHERE p_name GLOB '*[a-f]*' ORDER BY p_partkey",
    "SELECT n_name FROM nation EXCEPT SELECT n_name FROM nation, customer WHERE n_nationkey = c_nationkey
     UNION SELECT DISTINCT r_name FROM region INTERSECT SELECT r_name FROM region ORDER BY 1",
];

const LIMITS: BatchLimits = BatchLimits {
    rows_max: 1_000,
    bytes_max: 1 << 20,
    row_bytes_max: 1 << 20,
    bytes_left: None,
    until: None,
};

/// All rows, as batches of JSON.
#[track_caller]
fn rows(engine: &SqliteEngine, sql: &str) -> Vec<String> {
    let mut cursor = engine.open(&QuerySpec::new(sql), &CancelToken::new()).unwrap();
    let columns = cursor.columns().unwrap();
    let mut writer = RowWriter::new(RowShape::json(columns, RowFormat::Array, Int64Encoding::Number));
    let mut batches = Vec::new();
    loop {
        writer.begin_batch(Vec::new(), LIMITS, 0);
        let step = cursor.fill(&mut writer).unwrap();
        batches.push(String::from_utf8(writer.take_batch().unwrap().buffer).unwrap());
        if step == Step::Done {
            return batches;
        }
    }
}

#[test]
fn strangers_get_the_answers_that_others_get() {
    let folder = tempfile::tempdir().unwrap();
    let Prepared { path, .. } =
        prepare_in(folder.path(), Scale(Scale::MIN), CACHE_KIB_MAX, &ProgressBar::hidden()).unwrap();
    let engine = |profile| SqliteEngine::builder(&path).profile(profile).open().unwrap();
    let untrusted = engine(SqliteProfile::Untrusted);
    let trusted = engine(SqliteProfile::Trusted);
    for sql in QUERIES.iter().chain(REPORTS) {
        let answer = rows(&untrusted, sql);
        assert_eq!(answer, rows(&trusted, sql), "{sql}");
        let says_something = !matches!(answer.concat().as_str(), "" | "[null]");
        assert!(says_something, "the data has nothing of what is asked for: {sql}");
    }
}
