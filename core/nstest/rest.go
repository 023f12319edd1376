package nstest

var faultTests, raceTests, modelTests []entry

func watched(o *Options) { o.Watch = true }
