package bench

import (
	"math"
	"testing"
	"time"
)

// sendTime is the time in which a client sends a file of meanSize. It is an assumption: 10 Mbit/s.
const sendTime = meanSize * 8 * time.Second / 10_000_000

const (
	outage    = time.Hour           // duration of an outage in the simulation
	longest   = 90 * 24 * time.Hour // longest simulated time after an outage
	retention = 30 * 24 * time.Hour // time in which the uploads must not fill the volume of the store
)

// A resource is used by each upload. The simulation applies the utilization law: the utilization is the rate of the
// uploads × demand ÷ capacity.
type resource struct {
	name string
	// demand is the use of the resource by one upload, and capacity is the use by all uploads of a second at which the
	// resource is exhausted.
	demand, capacity float64
	// limit names the limit, setting the setting that raises it, and measured the measurement of the demand.
	limit, setting, measured string
}

// perHour returns the number of uploads per hour at which the resource is exhausted.
func (r resource) perHour() float64 { return r.capacity / r.demand * 3600 }

// utilization returns the utilization of the resource at the given number of uploads per hour. 1 means exhausted.
func (r resource) utilization(perHour float64) float64 { return perHour / r.perHour() }

// model contains the costs and limits that the simulation uses.
type model struct {
	costs
	limits
}

// cost returns the cost of an operation with the most files.
func (m model) cost(operation string) (last cost) {
	for _, c := range m.Operations {
		if c.Operation == operation && c.Failure == "" {
			last = c
		}
	}
	return last
}

// load returns the result of a load test.
func (m model) load(operation string, clients int) load {
	for _, l := range m.Loads {
		if l.Operation == operation && l.Clients == clients {
			return l
		}
	}
	return load{}
}

// entryBytes and fileBytes return the storage of a catalog entry, and of everything that the store keeps of a file.
func (m model) entryBytes() float64 { return m.Sizes[len(m.Sizes)-1].each() }

func (m model) fileBytes() (bytes float64) {
	for _, s := range m.Sizes {
		bytes += s.each()
	}
	return bytes + meanSize*m.StoredPerByte
}

// sweepPublishes returns the number of events that one sweep can publish.
func (m model) sweepPublishes() float64 {
	return min(m.published, math.Floor(m.stepTime.Seconds()*1000/m.cost(sweepFile).Millis))
}

// recordsPerSecond returns the number of events per second that record can add to the catalog.
func (m model) recordsPerSecond() float64 {
	return min(m.deliveries/m.load(recordFile, 1).Millis*1000, m.load(recordFile, loadClients).PerSecond)
}

// resources returns all resources.
func (m model) resources() []resource {
	one, many, record := m.load(uploadMean, 1), m.load(uploadMean, loadClients), m.load(recordFile, 1)
	busy := m.load(recordFile, loadClients)
	return []resource{
		{"volume of the store, uploads of 30 days", m.fileBytes() * retention.Seconds(), m.storeVolume,
			"storage in config/backing/mongodb.yaml", "a larger volume, then shards", "storage of a file"},
		{"sweep, recovery of an outage in the time of the outage", 1, m.sweepPublishes() / m.sweepEvery.Seconds(),
			"maxPublished in functions/sweep/sweep.go", "maxPublished, schedule in knative/sweep.yaml", sweepFile},
		{"sweep, deletion of idempotency keys", 1, m.bulkTimeout.Seconds() * 1000 / m.cost(sweepClaims).Millis * expired / m.sweepEvery.Seconds(),
			"BulkTimeout in shared/mongodb/document.go", "schedule in knative/sweep.yaml", sweepClaims},
		{"processors of the store", (many.StoreCPU + busy.StoreCPU) / 1000, float64(m.Cores),
			"processors of the measured machine", "more processors, then shards", "load: " + uploadMean + ", " + recordFile},
		{"processors of upload", many.FunctionCPU / 1000, m.uploadPods * m.uploadCores,
			"max-scale × cpu in knative/upload.yaml", "max-scale", "load: " + uploadMean},
		{"concurrent uploads at 10 Mbit/s", sendTime.Seconds() + one.Millis/1000, m.uploadPods * m.uploadRequests,
			"max-scale × containerConcurrency in knative/upload.yaml", "max-scale", "load: " + uploadMean},
		{"concurrent uploads through the gateway", sendTime.Seconds() + one.Millis/1000, m.gatewayRequests,
			"max-scale × containerConcurrency in knative/gateway.yaml", "max-scale", "load: " + uploadMean},
		{"connections of upload", one.Millis / 1000, m.uploadPods * m.connections,
			"max-scale × poolSize in shared/mongodb/mongodb.go", "maxPoolSize in MONGODB_URI_FILE", "load: " + uploadMean},
		{"deliveries to record", record.Millis / 1000, m.deliveries,
			"parallelism in knative/strongroom-files.yaml", "parallelism", "load: " + recordFile},
		{"processors of record", busy.FunctionCPU / 1000, m.recordPods * m.recordCores,
			"max-scale × cpu in knative/record.yaml", "max-scale", "load: " + recordFile},
		{"publications to RabbitMQ", 1, m.Broker.PerSecond,
			"one RabbitMQ node on the measured machine", "a faster node", "publications"},
		{"volume of RabbitMQ, events of an outage of record", m.Broker.Bytes * outage.Seconds(), m.brokerVolume,
			"storage in config/backing/rabbitmq.yaml", "a larger volume", "publications"},
	}
}

// recovery is the result of a simulated outage.
type recovery struct {
	waiting float64       // the number of files without a catalog entry at the end of the outage
	took    time.Duration // the time until no file waits any more, or 0 if that takes longer than longest
}

// brokerOutage simulates an outage of RabbitMQ. During the outage, the notes of the files wait for sweep. Afterward,
// each sweep publishes the events of some of these files, and record processes them together with those of new files.
func (m model) brokerOutage(perHour float64) recovery {
	r := recovery{waiting: perHour * outage.Hours()}
	spare := max(0, m.recordsPerSecond()-perHour/3600) * m.sweepEvery.Seconds()
	for left := r.waiting; left > 0; left -= min(m.sweepPublishes(), spare) {
		if r.took += m.sweepEvery; r.took > longest {
			return recovery{waiting: r.waiting}
		}
	}
	return r
}

// recordOutage simulates an outage of record. During the outage, the events wait in RabbitMQ.
func (m model) recordOutage(perHour float64) recovery {
	r := recovery{waiting: perHour * outage.Hours()}
	if spare := m.recordsPerSecond() - perHour/3600; spare > 0 {
		r.took = time.Duration(r.waiting / spare * float64(time.Second))
	}
	return r
}

// predicted returns the throughput of a number of clients that the model predicts from the costs with one client:
// either all clients are busy, or all processors of the machine.
func (m model) predicted(operation string, clients int) float64 {
	one := m.load(operation, 1)
	return min(float64(clients)/one.Millis, float64(m.Cores)/(one.FunctionCPU+one.ClientCPU+one.StoreCPU)) * 1000
}

// TestCapacity checks the simulation with costs and limits for which the results are known.
func TestCapacity(t *testing.T) {
	m := model{
		costs{Cores: 2, Operations: []cost{{Operation: sweepFile, Millis: 10}, {Operation: sweepClaims, Millis: 1000}},
			Loads: []load{
				{Operation: recordFile, Clients: 1, Millis: 10, FunctionCPU: 1, ClientCPU: 1, StoreCPU: 2},
				{Operation: recordFile, Clients: loadClients, PerSecond: 500, FunctionCPU: 1, StoreCPU: 2},
				{Operation: uploadMean, Clients: 1, Millis: 20, FunctionCPU: 5, ClientCPU: 5, StoreCPU: 10},
				{Operation: uploadMean, Clients: loadClients, FunctionCPU: 5, StoreCPU: 8},
			},
			Sizes: []size{{Documents: 10, Storage: 4000, Indexes: 1000}}, StoredPerByte: 1,
			Broker: broker{PerSecond: 1000, Bytes: 1000}},
		limits{uploadPods: 10, uploadRequests: 40, uploadCores: 1, recordPods: 5, recordCores: 1, connections: 16,
			deliveries: 20, published: 1000, bulkTimeout: 20 * time.Second, sweepEvery: 5 * time.Minute, stepTime: 50 * time.Second,
			storeVolume: 10 << 30, brokerVolume: 1 << 30},
	}
	resources := map[string]resource{}
	for _, r := range m.resources() {
		resources[r.name] = r
	}
	for name, want := range map[string]float64{
		"processors of the store":             2 / 0.010 * 3600,
		"processors of upload":                10 / 0.005 * 3600,
		"deliveries to record":                20 / 0.010 * 3600,
		"connections of upload":               160 / 0.020 * 3600,
		"publications to RabbitMQ":            1000 * 3600,
		"sweep, deletion of idempotency keys": 200_000.0 / 300 * 3600,
	} {
		if got := resources[name].perHour(); math.Abs(got/want-1) > 1e-9 {
			t.Errorf("%s: got %v uploads per hour, want %v", name, got, want)
		}
	}
	for name, c := range map[string]struct{ got, want recovery }{
		"RabbitMQ, few uploads":       {m.brokerOutage(100), recovery{100, 5 * time.Minute}},
		"RabbitMQ, a step per sweep":  {m.brokerOutage(10_000), recovery{10_000, 50 * time.Minute}},
		"RabbitMQ, too many uploads":  {m.brokerOutage(2_000_000), recovery{2_000_000, 0}},
		"record, a tenth of its rate": {m.recordOutage(180_000), recovery{180_000, 400 * time.Second}},
		"record, too many uploads":    {m.recordOutage(2_000_000), recovery{2_000_000, 0}},
	} {
		if c.got != c.want {
			t.Errorf("outage of %s: got %+v, want %+v", name, c.got, c.want)
		}
	}
	if got, want := m.predicted(uploadMean, loadClients), 100.0; got != want {
		t.Errorf("throughput of %d clients: got %v, want %v", loadClients, got, want)
	}
}
