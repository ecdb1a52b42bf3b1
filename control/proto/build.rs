//! Compiles the contracts without protoc.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let contracts = ["inspect.proto", "network.proto", "node.proto"];
    let descriptors = protox::compile(contracts, ["proto"])?;
    tonic_prost_build::configure()
        // What is asked for by people is shown to them, and to their programs, as JSON.
        .message_attribute(
            ".skein.inspect",
            "#[derive(serde::Serialize, serde::Deserialize)]\n#[serde(default)]",
        )
        .enum_attribute(
            ".skein.inspect",
            "#[derive(serde::Serialize, serde::Deserialize)]",
        )
        // The same network is to be the same bytes each time.
        .btree_map(".skein.network.Network.labels")
        // One object is in the messages of many nodes: shared rather than copied.
        .bytes(".skein.network.EncodedUpdate")
        .compile_fds(descriptors)?;
    Ok(())
}
