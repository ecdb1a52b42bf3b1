//! Who leads, and how that changes.

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_members_go_on_without_their_leader() {
    let dir = tempfile::tempdir().unwrap();
    let root = create_root(clock::now()).unwrap();
    let mut one = TestMember::start(&root, dir.path(), 1).await;
    let two = TestMember::start(&root, dir.path(), 2).await;
    let three = TestMember::start(&root, dir.path(), 3).await;
    found(&one, &[&one, &two, &three]).await;
    one.raft.propose(vec![service("a")]).await.unwrap();
    for raft in [&two.raft, &three.raft] {
        await_state(raft, |state| state.service("id-a").is_some()).await;
    }
    all_vote(&[&one, &two, &three]).await;
    let refused = two.raft.propose(vec![service("b")]).await;
    let Err(ProposeError::NotLeader {
        leader: Some(leader),
    }) = refused
    else {
        panic!("{refused:?}")
    };
    assert_eq!(leader.address, one.address);
    assert!(one.raft.reachable(2) && one.raft.reachable(3));

    one.kill().await;
    let new = await_leader(&two.raft, |seen| {
        seen.leader
            .as_ref()
            .is_some_and(|leader| leader.raft_id != 1)
    })
    .await;
    let leads = if new.leader.unwrap().raft_id == 2 {
        &two.raft
    } else {
        &three.raft
    };
    await_leader(leads, |leadership| leadership.is_self).await;
    leads.propose(vec![service("c")]).await.unwrap();
    assert!(!leads.reachable(1));

    // It comes back, hears what it missed, and is let go for good.
    one.restart().await;
    await_state(&one.raft, |state| state.service("id-c").is_some()).await;
    leads.remove_manager("n1").await.unwrap();
    let ids: Vec<_> = leads.members().iter().map(|m| m.raft_id).collect();
    assert_eq!(ids, [2, 3]);

    // Its certificate is good for months, but it cannot write to the others' logs.
    let mut cluster = Cluster::clone(leads.state().cluster().unwrap());
    cluster.next_raft_id = 4;
    let update = vec![Action::Update(cluster.into())];
    leads.propose(update).await.unwrap();
    for member in [&two, &three] {
        let given = |state: &State| state.cluster().is_some_and(|c| c.next_raft_id == 4);
        await_state(&member.raft, given).await;
        let members = member.raft.members();
        assert!(members.iter().all(|member| member.raft_id != 1));
        member.hear_of(&[&two, &three]);
    }
    let (leader, other) = match leads.id() {
        2 => (&two, &three),
        _ => (&three, &two),
    };
    let mut network = network::Network {
        credentials: one.credentials.clone(),
        contacts: contacts::Contacts::default(),
    };
    // Neither as what it was, nor as one that is yet to come.
    for (member, claimed) in [(leader, 1), (leader, 1000), (other, 1), (other, 1000)] {
        let peer = types::Peer {
            node_id: member.node_id(),
            address: member.address.clone(),
        };
        let mut connection = network.new_client(member.id, &peer).await;
        let usurping = openraft::raft::AppendEntriesRequest {
            vote: types::Vote::new_committed(1000, claimed),
            prev_log_id: None,
            leader_commit: None,
            entries: Vec::new(),
        };
        let option = RPCOption::new(PATIENCE);
        let refused = connection.append_entries(usurping, option).await;
        let refused = refused.unwrap_err().to_string();
        assert!(refused.contains("only members of the group"), "{refused}");
    }
    leads.propose(vec![service("d")]).await.unwrap();
    for member in [&one, &two, &three] {
        member.kill().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_was_cut_off_comes_back_without_an_election() {
    let dir = tempfile::tempdir().unwrap();
    let root = create_root(clock::now()).unwrap();
    let one = TestMember::start(&root, dir.path(), 1).await;
    let two = TestMember::start(&root, dir.path(), 2).await;
    let mut three = TestMember::start(&root, dir.path(), 3).await;
    found(&one, &[&one, &two, &three]).await;
    all_vote(&[&one, &two, &three]).await;
    let led_by_one = |seen: &Leadership| {
        seen.leader
            .as_ref()
            .is_some_and(|leader| leader.raft_id == 1)
    };
    let before = await_leader(&three.raft, led_by_one).await;

    let identity = three.credentials.identity();
    three.cut();
    // It knows that nobody leads it, as it did when it stood for election, and for long enough to.
    await_leader(&three.raft, |seen| seen.leader.is_none()).await;
    one.raft.propose(vec![service("a")]).await.unwrap();
    tokio::time::sleep(CUT_OFF).await;
    assert!(
        three.raft.state().service("id-a").is_none(),
        "it was not cut off"
    );

    three.reconnect(identity).await;
    await_state(&three.raft, |state| state.service("id-a").is_some()).await;
    tokio::time::sleep(CUT_OFF).await;
    for member in [&one, &two, &three] {
        let now = await_leader(&member.raft, |seen| seen.leader.is_some()).await;
        assert_eq!((now.term, now.leader), (before.term, before.leader.clone()));
    }
    // It counts again: with it the group goes on without its leader.
    one.kill().await;
    let other = |seen: &Leadership| {
        seen.leader
            .as_ref()
            .is_some_and(|leader| leader.raft_id != 1)
    };
    await_leader(&three.raft, other).await;
    for member in [&two, &three] {
        member.kill().await;
    }
}

/// Its member is the same: only where it listens has changed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_manager_is_called_where_it_says_that_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let root = create_root(clock::now()).unwrap();
    let one = TestMember::start(&root, dir.path(), 1).await;
    let mut two = TestMember::start(&root, dir.path(), 2).await;
    let three = TestMember::start(&root, dir.path(), 3).await;
    found(&one, &[&one, &two, &three]).await;
    all_vote(&[&one, &two, &three]).await;
    let nodes = [1, 2, 3].map(|id| {
        let mut node = Node {
            id: format!("n{id}"),
            role: NodeRole::Manager,
            ..Node::default()
        };
        node.spec.role = NodeRole::Manager;
        Action::Create(node.into())
    });
    one.raft.propose(nodes.to_vec()).await.unwrap();

    two.serving.cancel();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    two.address = listener.local_addr().unwrap().to_string();
    two.serving = serve(listener, &two.raft, &two.managers);
    one.raft.propose(vec![service("a")]).await.unwrap();
    tokio::time::sleep(CUT_OFF / 2).await;
    assert!(
        two.raft.state().service("id-a").is_none(),
        "it is called where it was"
    );

    let (raft_id, _) = one.raft.add_manager("n2", &two.address).await.unwrap();
    assert_eq!(raft_id, 2);
    await_state(&two.raft, |state| state.service("id-a").is_some()).await;
    let is_called_there = |member: &TestMember| {
        let members = member.raft.members();
        let is_there = |m: &&Member| (m.raft_id, &m.address) == (2, &two.address) && m.votes;
        members.iter().any(|member| is_there(&member))
    };
    let all_know = async {
        while ![&one, &two, &three].into_iter().all(is_called_there) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, all_know).await.unwrap();
    // And votes there: with it the group goes on without its leader.
    one.kill().await;
    let other = |seen: &Leadership| {
        let leader = seen.leader.as_ref();
        leader.is_some_and(|leader| leader.raft_id != 1)
    };
    await_leader(&three.raft, other).await;
    for member in [&two, &three] {
        member.kill().await;
    }
}

/// Proposes services one after the other, to whoever leads, until `stop`; those that were acknowledged.
async fn write(members: Vec<Raft>, stop: CancellationToken) -> Vec<String> {
    let mut written = Vec::new();
    for number in 0.. {
        let name = format!("w{number}");
        loop {
            if stop.is_cancelled() {
                return written;
            }
            let leads = members
                .iter()
                .find(|raft| raft.leadership().borrow().is_self);
            let Some(leads) = leads else {
                tokio::time::sleep(Duration::from_millis(5)).await;
                continue;
            };
            match leads.propose(vec![service(&name)]).await {
                Ok(_) => break,
                // Of an earlier attempt of which nobody knew what became.
                Err(ProposeError::Rejected(_)) => break,
                Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
        written.push(format!("id-{name}"));
    }
    written
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_lead_is_handed_over_and_nothing_that_was_written_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let root = create_root(clock::now()).unwrap();
    let one = TestMember::start(&root, dir.path(), 1).await;
    let two = TestMember::start(&root, dir.path(), 2).await;
    let three = TestMember::start(&root, dir.path(), 3).await;
    let all = [&one, &two, &three];
    found(&one, &all).await;
    all_vote(&all).await;
    let (follower, stop) = (&two.raft, CancellationToken::new());
    let refused = follower.transfer_leadership().await.unwrap_err();
    assert_eq!(refused.to_string(), "this manager does not lead");
    let rafts: Vec<Raft> = all.iter().map(|member| member.raft.clone()).collect();
    let writing = tokio::spawn(write(rafts, stop.clone()));

    let leader = async || loop {
        let mut members = all.iter();
        match members.find(|member| member.raft.leadership().borrow().is_self) {
            Some(leads) => return *leads,
            None => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    };
    // A slow machine may need several attempts, and elects another leader after one that came to nothing.
    let handing_over = async {
        let mut handed_over = 0;
        while handed_over < 3 {
            let leads = leader().await;
            let before = leads.raft.leadership().borrow().term;
            match leads.raft.transfer_leadership().await {
                Ok(()) => {
                    let now = leads.raft.leadership().borrow().clone();
                    assert!(now.term > before, "{now:?}");
                    handed_over += 1;
                }
                Err(error) => println!("once more: {error}"),
            }
        }
    };
    timeout(PATIENCE * 4, handing_over).await.unwrap();
    stop.cancel();
    let written = writing.await.unwrap();
    assert!(!written.is_empty());
    for member in all {
        let has_all = |state: &State| written.iter().all(|id| state.service(id).is_some());
        await_state(&member.raft, has_all).await;
    }

    // From another than the leader nobody takes it, whatever it says of who leads.
    let leads = leader().await;
    let mut others = all.into_iter().filter(|member| member.id != leads.id);
    let (from, to) = (others.next().unwrap(), others.next().unwrap());
    let vote = to.raft.openraft().metrics().borrow().vote;
    let mut network = network::Network {
        credentials: from.credentials.clone(),
        contacts: contacts::Contacts::default(),
    };
    for (claimed, reason) in [
        (vote, "only the leader may hand the lead over"),
        (
            types::Vote::new_committed(vote.leader_id().term, from.id),
            "the leader that is followed is another",
        ),
    ] {
        let order = LeadershipTransfer {
            vote: claimed,
            successor: from.id,
            step: Step::Yield,
        };
        let peer = types::Peer {
            node_id: to.node_id(),
            address: to.address.clone(),
        };
        let line = network.new_client(to.id, &peer).await;
        let refused = line.transfer_leadership(order).await.unwrap_err();
        assert!(refused.message().contains(reason), "{refused}");
    }

    // Without the others there is nobody to hand over to; the leader goes on as it can.
    from.cut();
    to.cut();
    let alone = async { while leads.raft.transfer_leadership().await.is_ok() {} };
    timeout(PATIENCE, alone).await.unwrap();
    // Until it has been alone for so long that others may lead: then nobody takes it for a leader, itself included.
    let nobody = |seen: &Leadership| !seen.is_self && seen.leader.is_none();
    await_leader(&leads.raft, nobody).await;
    for member in all {
        member.kill().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_no_member_is_not_told_whether_it_may_stand() {
    let dir = tempfile::tempdir().unwrap();
    let root = create_root(clock::now()).unwrap();
    let (one, two) = two_voters(&root, dir.path()).await;
    let caller = |node_id: &str| PeerIdentity {
        node_id: node_id.into(),
        role: NodeRole::Manager,
    };
    assert!(one.raft.pre_vote(&caller(&two.node_id())).await.unwrap());
    let refused = one.raft.pre_vote(&caller("gone")).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::PermissionDenied);
    for member in [one, two] {
        member.kill().await;
    }
}
