package nstest

func watched(o *Options) { o.Watch = true }
