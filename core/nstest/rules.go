package nstest

/*
What proves each safety rule of the journal, the leader and the names. A name with ": " is an entry of this package's
suite; other names are tests of the packages they are listed with. "Model" is the randomized model (model.go) and
"histories" the linearizability checks of conformance (TestLinear, and TestCluster with 3 masters and 2 gateways), in which
masters and gateways are killed, paused and started with other clocks.

	 2  a revision is one attempt's        "rule 2: …"; "numbers are never used twice, across restarts too"
	 6  overlapping writes                 "rule 6: overlapping writes land …"; Model; histories
	    a write that comes late            "rule 6: a name whose last change got no answer …", "… never left for the store …"
	    an intent inherited                the same, after their restart; namespace TestSuccessorDisarms; conformance TestCrash
	 7  late facts of a store              "rule 7: a List … / a Stat … in flight …", 12 of them; meta TestDerivedModel
	    a strict reader's flight           "rule 7: who wants no old answer does not join …"
	 8  no demotion                        nothing is demoted: there is no Forget. The derived layer is in memory only and
	                                       starts empty in each reign, so it cannot be older than the journal
	 9  whiteouts of persists              writes are carried through, never persisted later: "rule 9: …", 3 of them, are
	                                       removals and renames during a write
	    a persist known again              namespace ours: "rule 6: …" after restart; conformance TestCrash
	20  waits from the claim's answer      meta TestLease, TestLeaseAfterPause; TestRelease where the last one says it has ended
	    only voter                         etcd TestGrow, TestSingleLeads
	    reads: quorum                      not built: reads go by the lease
	21  directory epochs                   gateways cache no directories
	22  only one's own clock               meta TestLeaseAfterPause, TestLease; histories under "clock" and "pause"
	    stale once after a takeover        "what was changed behind while nothing ran is seen"
	23  learners, 1, 3 or 5                etcd TestGrow, TestReplace, TestFive, TestCluster, TestOptionsRefused
	    external etcd                      etcd TestSessionElection, TestSessionClose. Probes with a revoke are not built:
	                                       leadership then ends with the lease
	24  revocation                         remote TestRevokedKeysAreRefused; conformance TestAbuse
	    silence, bounded waits, readiness  remote TestSilence, TestSuccessorOfSilentLeader; gateway TestHealth; conformance
	                                       TestRolling
	    signed pages of workers            conformance TestWorkers, remote TestWorkersFail
	25  orphans                            workers hold no unpersisted bytes and nothing collects them: not built
	27  request ids                        namespace TestAnswersOutliveTheirProcess, TestIdleSessionsAreForgotten; remote
	                                       TestAnotherReign, TestRenameIsMadeOnce; conformance TestOnce
	31  two edges, rmdir, directory moves  "rule 31: …", 4 of them; "a directory renamed to and fro …"; Model
	32  restore                            namespace TestRestored, TestLives, TestReleaseOfAnEmptyStore; etcd TestRestore,
	                                       TestBackups; conformance TestOperate
	    dirty bytes of other incarnations  there are none: see 25

Listings are proved against a sorted list at three heights: meta TestUnionModel, "random listings agree with a sorted list"
over a namespace, and the same over a connection. What an unsynced file loses: conformance TestPowerLoss for one process,
TestLossyMasters for the leader of three.
*/
