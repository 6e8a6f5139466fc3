//! The first process of every pod in a test cluster: it holds the pod's namespaces until the runtime kills it.

fn main() {
    loop {
        std::thread::park();
    }
}
