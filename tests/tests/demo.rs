//! What the demo shows holds.

#[test]
fn the_demo_holds() -> anyhow::Result<()> {
    xtask::demo::demo()
}
